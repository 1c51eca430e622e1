// What the server answers, and how it is asked. The documents are told by /openapi.json.

import { valueText } from "./format";

export type Json = null | boolean | number | string | bigint | Json[] | { [name: string]: Json };
export type Fields = { [name: string]: Json };

export interface Question {
  question_id: string;
  lane_id: string;
  text: string;
  offset: number;
  answer_offset: number | null;
}

export interface Run {
  id: string;
  run_id: string;
  session_id: string;
  status: string;
  last_offset: number;
  archived_offset: number | null;
  first_hot: number | null;
  created_at: string;
  updated_at: string;
  waiting_for: Question[];
  tags: { [name: string]: string };
  parent: { run_id: string; offset: number } | null;
  /** In lists: its last event, on a line. */
  last?: { offset: number; lane_id: string; kind: string; text: string } | null;
}

export interface RunEvent {
  offset: number;
  cursor: string;
  run_id: string;
  session_id: string;
  lane_id: string;
  span_id: string;
  parent_span_id: string | null;
  seq: number;
  ts: number;
  kind: string;
  visibility: string;
  payload: Fields;
}

export interface EventPage {
  run_id: string;
  events: RunEvent[];
  unreadable: number[];
  cursor: string | null;
  next: string | null;
}

export interface Lane {
  lane_id: string;
  last_offset: number;
  last_seq: number;
  snapshot_offset: number | null;
  ended: boolean;
  lease: string | null;
}

export const ENDED = new Set(["completed", "failed", "cancelled"]);

/** What the server says is wrong (RFC 9457). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    detail: string,
  ) {
    super(detail);
  }
}

/** Milliseconds until something is asked for again that nothing answered. */
export const AGAIN = 1500;

/** Whether it helps to ask again: nothing answered, or a server that could not. */
export function isPassing(problem: Error): boolean {
  return !(problem instanceof Problem) || problem.status >= 500;
}

/** The app's own place, wherever it is mounted. */
const BASE = new URL(".", location.href);

export function address(path: string): string {
  return new URL(path, BASE).href;
}

export function runPath(id: string, rest = ""): string {
  return `runs/${encodeURIComponent(id)}${rest}`;
}

/** A run's name in paths: unpadded base64url of its UTF-8. */
export function pathId(runId: string): string {
  const bytes = Array.from(new TextEncoder().encode(runId), (one) => String.fromCharCode(one));
  return btoa(bytes.join("")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** The run that a name in paths stands for; null where it is nobody's name. */
export function runIdOf(id: string): string | null {
  try {
    const text = atob(id.replaceAll("-", "+").replaceAll("_", "/"));
    const runId = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(text, (one) => one.charCodeAt(0)));
    return pathId(runId) === id ? runId : null;
  } catch {
    return null;
  }
}

/** JSON as a value; whole numbers that a number of JavaScript cannot hold stay whole. */
export function parse<T>(text: string): T {
  if (!/\d{16}/.test(text)) return JSON.parse(text) as T;
  const whole = (_name: string, value: unknown, context?: { source: string }): unknown =>
    typeof value === "number" && !Number.isSafeInteger(value) && context && /^-?\d+$/.test(context.source)
      ? BigInt(context.source)
      : value;
  return JSON.parse(text, whole as (name: string, value: unknown) => unknown) as T;
}

async function answered<T>(response: Response): Promise<T> {
  const text = await response.text();
  if (response.ok) return parse<T>(text);
  let detail = `the server answers with ${response.status}`;
  try {
    detail = (JSON.parse(text) as { detail: string }).detail;
  } catch {
    // a proxy's own words
  }
  throw new Problem(response.status, detail);
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return answered<T>(await fetch(address(path), signal ? { signal } : {}));
}

export async function post<T>(path: string, body: Fields): Promise<T> {
  const headers = { "Content-Type": "application/json" };
  return answered<T>(await fetch(address(path), { method: "POST", headers, body: valueText(body) }));
}

let told: Promise<Set<string>> | null = null;

/** What may be done with runs beside reading: the actions that the app was given. */
export function actionsOfApp(): Promise<Set<string>> {
  told ??= get<{ paths: { [path: string]: { post?: unknown } } }>("openapi.json").then(
    ({ paths }) => new Set(["answer", "cancel", "fork"].filter((action) => paths[`/runs/{id}/${action}`]?.post)),
    () => new Set<string>(),
  );
  return told;
}
