// A run in numbers, as the server counts it: asked for again until it is complete, and then as the run grows.

import { runPath } from "./api";
import { usePolled, type Polled } from "./polled";

export interface Counts {
  events: number;
  errors: number;
  first_offset: number | null;
  last_offset: number | null;
  first_ts: number | null;
  last_ts: number | null;
  input_tokens: number;
  output_tokens: number;
  cost: number;
}

export interface Bucket extends Counts {
  start: number;
}

export interface LaneNumbers extends Counts {
  lane_id: string | null;
  buckets: Bucket[];
}

export interface ToolNumbers {
  tool: string | null;
  calls: number;
  errors: number;
  seconds: number;
  input_tokens: number;
  output_tokens: number;
  cost: number;
}

export interface Summary {
  offset: number;
  last_offset: number;
  complete: boolean;
  bucket_seconds: number;
  total: Counts;
  lanes: LaneNumbers[];
  tools: ToolNumbers[];
  kinds: { kind: string | null; events: number }[];
  unreadable: number;
}

const SOON = 1000;
const LATER = 5000;

/** How soon it is asked for again: later where it is complete and no event has come. */
function pace(now: Summary | null, before: Summary | null): number {
  return now?.complete && now.offset === before?.offset ? LATER : SOON;
}

export function useSummary(id: string): Polled<Summary> {
  return usePolled<Summary>(runPath(id, "/summary"), pace);
}
