// The rows of a list of events: one for each, or for all pieces of text of a lane that follow one another.

import type { RunEvent } from "./api";

export interface Row {
  /** The event, or the first of those that are joined. */
  event: RunEvent;
  lastOffset: number;
  count: number;
  /** The text of all pieces; null for other events. */
  text: string | null;
}

const TEXTS = ["text", "delta", "content"];

/** The text that an event of text brings, under whichever name its producer gives it. */
export function textOf({ payload }: RunEvent): string | null {
  return TEXTS.map((name) => payload[name]).find((value): value is string => typeof value === "string") ?? null;
}

/** Rows that are made of a log's events, and go on where they were when only newer ones have come. */
export class Rows {
  rows: Row[] = [];
  private first = 0;
  private last = 0;
  private count = 0;
  private open = new Map<string, Row>();

  constructor(private readonly isJoined: boolean) {}

  /** Take in all events of a log. */
  update(events: readonly RunEvent[]): Row[] {
    const isLonger = this.count > 0 && events[0]?.offset === this.first && events[this.count - 1]?.offset === this.last;
    if (!isLonger) {
      this.rows = [];
      this.open.clear();
      this.count = 0;
    }
    for (const event of events.slice(this.count)) this.add(event);
    this.count = events.length;
    this.first = events[0]?.offset ?? 0;
    this.last = events.at(-1)?.offset ?? 0;
    return this.rows;
  }

  private add(event: RunEvent): void {
    const text = this.isJoined && event.kind === "text.delta" ? textOf(event) : null;
    const open = this.open.get(event.lane_id);
    if (text !== null && open) {
      open.text += text;
      open.count += 1;
      open.lastOffset = event.offset;
      return;
    }
    const row: Row = { event, lastOffset: event.offset, count: 1, text };
    if (text === null) this.open.delete(event.lane_id);
    else this.open.set(event.lane_id, row);
    this.rows.push(row);
  }
}

/** The row that an offset lies in: of several lanes' joined texts the one that begins last before it. */
export function rowAt(rows: readonly Row[], offset: number): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle]!.event.offset <= offset) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
