// Times, pixels and offsets of a run's lanes: where each lies beside the others.

import type { Bucket, Summary } from "./summary";

export interface Range {
  from: number;
  to: number;
}

/** The time that a run takes in, as far as it is counted; null where no event has a time. */
export function wholeOf(summary: Summary): Range | null {
  const { first_ts: first, last_ts: last } = summary.total;
  if (first === null || last === null) return null;
  const margin = Math.max((last - first) * 0.01, summary.bucket_seconds / 2);
  return { from: first - margin, to: last + margin };
}

export function xOf(time: number, range: Range, width: number): number {
  return ((time - range.from) / (range.to - range.from)) * width;
}

export function timeAt(x: number, range: Range, width: number): number {
  return range.from + (x / width) * (range.to - range.from);
}

/** A range that is so much wider, around a share of it, within the whole. */
export function zoomed(range: Range, factor: number, whole: Range, share = 0.5): Range {
  const width = Math.min((range.to - range.from) * factor, whole.to - whole.from);
  const from = range.from + (range.to - range.from - width) * share;
  return within({ from, to: from + Math.max(width, 0.001) }, whole);
}

export function moved(range: Range, share: number, whole: Range): Range {
  const by = (range.to - range.from) * share;
  return within({ from: range.from + by, to: range.to + by }, whole);
}

function within({ from, to }: Range, whole: Range): Range {
  const by = Math.max(0, whole.from - from) - Math.max(0, to - whole.to);
  return { from: from + by, to: to + by };
}

/** The offsets of the events that lie in a range of time, at least; null for none. */
export function offsetsIn(summary: Summary, range: Range): { first: number; last: number; events: number } | null {
  const cells = allBuckets(summary).filter((one) => one.start + summary.bucket_seconds > range.from && one.start < range.to);
  if (cells.length === 0) return null;
  return {
    first: Math.min(...cells.map((one) => one.first_offset ?? Infinity)),
    last: Math.max(...cells.map((one) => one.last_offset ?? 0)),
    events: cells.reduce((sum, one) => sum + one.events, 0),
  };
}

/** About when the event of an offset was: by those that are counted beside it. */
export function timeOf(summary: Summary, offset: number): number | null {
  let nearest: Bucket | null = null;
  for (const one of allBuckets(summary)) {
    if ((one.first_offset ?? Infinity) <= offset && (one.first_offset ?? 0) >= (nearest?.first_offset ?? 0)) nearest = one;
  }
  if (!nearest) return null;
  const { first_offset: first, last_offset: last, first_ts: from, last_ts: to } = nearest;
  if (first === null || last === null || from === null || to === null) return nearest.start;
  return from + (to - from) * (last > first ? Math.min(1, (offset - first) / (last - first)) : 0);
}

function allBuckets(summary: Summary): Bucket[] {
  return summary.lanes.flatMap((lane) => lane.buckets);
}

/** Times for the axis: round numbers, a few of them. */
export function ticks(range: Range, most: number): number[] {
  const steps = [0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400, 604_800, 2_592_000];
  const step = steps.find((one) => (range.to - range.from) / one <= most) ?? 31_536_000;
  const found: number[] = [];
  for (let at = Math.ceil(range.from / step) * step; at <= range.to && found.length <= most; at += step) found.push(at);
  return found;
}
