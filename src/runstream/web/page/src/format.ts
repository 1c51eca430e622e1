// Times, counts and values as people read them.

import type { Fields, Json } from "./api";

const clockFormat = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  hour12: false,
});
const dayFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });
const numberFormat = new Intl.NumberFormat("en");

function moment(seconds: number): Date | null {
  const date = new Date(seconds * 1000); // a producer may write any number
  return Number.isNaN(date.getTime()) ? null : date;
}

/** The time of day, with milliseconds, in the reader's zone. */
export function clock(seconds: number): string {
  const date = moment(seconds);
  return date ? clockFormat.format(date) : String(seconds);
}

/** Day and time, in the reader's zone. */
export function dayAndTime(seconds: number): string {
  const date = moment(seconds);
  return date ? dayFormat.format(date) : String(seconds);
}

export function ago(iso: string, now = Date.now()): string {
  const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
  return seconds < 1 ? "now" : `${duration(seconds)} ago`;
}

export function duration(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d`;
}

export function count(number: number, what = ""): string {
  const text = numberFormat.format(number);
  return what ? `${text} ${what}${number === 1 ? "" : "s"}` : text;
}

/** A value on one line. */
export function line(value: Json, most = 300): string {
  const text = typeof value === "string" ? value : valueText(value);
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/** A value as JSON; whole numbers stay whole, however large. */
export function valueText(value: Json): string {
  try {
    return JSON.stringify(value);
  } catch {
    // it has a whole number in it that JSON.stringify does not write
    if (typeof value === "bigint") return String(value);
    if (Array.isArray(value)) return `[${value.map(valueText).join(",")}]`;
    return `{${Object.entries(value as Fields).map(([name, one]) => `${JSON.stringify(name)}:${valueText(one)}`).join(",")}}`;
  }
}
