// The lanes of a run over time: how much happened when, and closer by each event, what it came from, and marks.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, runPath, type EventPage, type Lane, type Run, type RunEvent } from "./api";
import { clock, count, dayAndTime, duration } from "./format";
import { laneColour } from "./lanes";
import { loadPatiently, usePolled, type Polled } from "./polled";
import { go, link } from "./route";
import { useSummary, type Summary } from "./summary";
import { moved, offsetsIn, ticks, timeAt, timeOf, wholeOf, xOf, zoomed, type Range } from "./time_scale";
import { UpTo } from "./usage_view";

const ROW = 34;
const AXIS = 22;
const CLOSE = 1500; // so many events are drawn one by one
const SETTLE_MILLISECONDS = 150;
const NOTHING: Polled<RunEvent[]> = { value: null, problem: null };

export function LanesView({ run }: { run: Run }) {
  const { value: summary, problem } = useSummary(run.id);
  const lanes = usePolled<{ lanes: Lane[] }>(runPath(run.id, "/lanes"), 10_000).value?.lanes ?? [];
  const kept = usePolled<{ snapshots: { offset: number }[] }>(runPath(run.id, "/snapshots?limit=100"), null).value?.snapshots ?? [];
  const [chosen, setChosen] = useState<Range | null>(null);
  const whole = summary ? wholeOf(summary) : null;
  const range = chosen ?? whole;
  const { value: events, problem: eventsProblem } = useEventsIn(run.id, summary, chosen ?? whole);
  if (problem) return <p role="alert">{problem.message}</p>;
  if (!summary) return <p role="status">Counts…</p>;
  if (!whole || !range) return <p role="status">No event of it has a time.</p>;
  const change = (to: Range) => setChosen(to.to - to.from >= (whole.to - whole.from) * 0.999 ? null : to);
  return (
    <>
      <UpTo summary={summary} />
      <div class="sum" role="group" aria-label="The part that is shown">
        <button type="button" onClick={() => change(zoomed(range, 0.5, whole))}>
          Zoom in
        </button>
        <button type="button" onClick={() => change(zoomed(range, 2, whole))} disabled={!chosen}>
          Zoom out
        </button>
        <button type="button" onClick={() => change(moved(range, -0.5, whole))} disabled={!chosen}>
          Earlier
        </button>
        <button type="button" onClick={() => change(moved(range, 0.5, whole))} disabled={!chosen}>
          Later
        </button>
        <button type="button" onClick={() => setChosen(null)} disabled={!chosen}>
          All
        </button>
        <span>
          {dayAndTime(range.from)}, {duration(range.to - range.from)}
        </span>
        <span>{events ? `${count(events.length, "event")} one by one` : "drag over a part to see its events one by one"}</span>
      </div>
      <Chart run={run} summary={summary} lanes={lanes} snapshots={kept.map((one) => one.offset)} range={range} whole={whole} events={events} onRange={change} />
      {eventsProblem && <p role="alert">{eventsProblem.message}</p>}
      <p class="key">
        <i class="mark error" /> error <i class="mark human" /> question or answer <i class="mark snapshot" /> snapshot <i class="mark lease" /> lease
      </p>
    </>
  );
}

/** The events of a part of a run, where they are few enough to be drawn one by one; null where they are not. */
function useEventsIn(id: string, summary: Summary | null, range: Range | null): Polled<RunEvent[]> {
  const [found, setFound] = useState<Polled<RunEvent[]>>(NOTHING);
  const held = useRef<{ first: number; last: number; events: RunEvent[] }>({ first: Infinity, last: 0, events: [] });
  const offsets = summary && range ? offsetsIn(summary, range) : null;
  const isFew = offsets !== null && offsets.last - offsets.first < CLOSE;
  const [first, last] = isFew ? [offsets.first, offsets.last] : [0, 0];
  useEffect(() => {
    if (!isFew) {
      setFound(NOTHING);
      return undefined;
    }
    const load = async (signal: AbortSignal) => {
      // of a run that grows, only what is new is asked for
      const isHeld = held.current.first <= first && first <= held.current.last;
      const all = isHeld ? held.current.events.filter((event) => event.offset >= first && event.offset <= last) : [];
      const after = isHeld ? held.current.last : first - 1;
      let query: string | null = after < last ? `?after=${after}&before=${last + 1}&limit=1000` : null;
      while (query !== null) {
        const page: EventPage = await get<EventPage>(runPath(id, `/events${query}`), signal);
        all.push(...page.events);
        query = page.next;
      }
      held.current = { first, last, events: all };
      return all;
    };
    return loadPatiently(load, SETTLE_MILLISECONDS, setFound);
  }, [id, first, last, isFew]);
  return found;
}

interface ChartProperties {
  run: Run;
  summary: Summary;
  lanes: Lane[];
  snapshots: number[];
  range: Range;
  whole: Range;
  events: RunEvent[] | null;
  onRange: (range: Range) => void;
}

function Chart({ run, summary, lanes, snapshots, range, whole, events, onRange }: ChartProperties) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(800);
  const [brush, setBrush] = useState<{ from: number; to: number } | null>(null);
  useEffect(() => {
    const observer = new ResizeObserver(() => setWidth(box.current!.clientWidth));
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);
  const names = summary.lanes.map((lane) => lane.lane_id ?? "others");
  const height = AXIS + names.length * ROW;
  const facts = new Map(lanes.map((lane) => [lane.lane_id, lane]));

  const x = (event: PointerEvent) => Math.min(width, Math.max(0, event.clientX - box.current!.getBoundingClientRect().left));
  function released(): void {
    if (brush && Math.abs(brush.to - brush.from) > 5) {
      const [from, to] = [Math.min(brush.from, brush.to), Math.max(brush.from, brush.to)];
      onRange({ from: timeAt(from, range, width), to: timeAt(to, range, width) });
    }
    setBrush(null);
  }

  return (
    <div
      ref={box}
      class="lanes"
      onPointerDown={(event) => setBrush({ from: x(event), to: x(event) })}
      onPointerMove={(event) => brush && setBrush({ ...brush, to: x(event) })}
      onPointerUp={released}
      onPointerLeave={() => setBrush(null)}
      onWheel={(event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        const share = (event.clientX - box.current!.getBoundingClientRect().left) / width;
        onRange(zoomed(range, event.deltaY > 0 ? 1.3 : 1 / 1.3, whole, share));
      }}
    >
      <svg width={width} height={height} role="img" aria-label={`${count(names.length, "lane")} over ${duration(range.to - range.from)}: ${names.join(", ")}`}>
        {ticks(range, Math.max(2, Math.floor(width / 110))).map((time) => (
          <g key={time} class="tick" transform={`translate(${xOf(time, range, width)} 0)`}>
            <line y1={0} y2={height} />
            <text x={3} y={14}>
              {clock(time)}
            </text>
          </g>
        ))}
        {names.map((name, at) => (
          <g key={name} transform={`translate(0 ${AXIS + at * ROW})`} style={{ color: laneColour(name) }} data-lane={name}>
            <line class="rule" x1={0} x2={width} y1={ROW} y2={ROW} />
            {events === null && <Density summary={summary} at={at} range={range} width={width} />}
            <text class="name" x={4} y={12}>
              {name}
              {facts.get(name)?.lease ? ` · held by ${facts.get(name)!.lease}` : ""}
              {facts.get(name)?.ended ? " · ended" : ""}
            </text>
            <LeaseMark lane={facts.get(name)} summary={summary} range={range} width={width} />
            <Marks offsets={[...new Set([facts.get(name)?.snapshot_offset ?? 0, ...(at === 0 ? snapshots : [])])]} summary={summary} range={range} width={width} />
          </g>
        ))}
        {events && <Events id={run.id} events={events} names={names} range={range} width={width} />}
        {brush && <rect class="brush" x={Math.min(brush.from, brush.to)} width={Math.abs(brush.to - brush.from)} y={0} height={height} />}
      </svg>
    </div>
  );
}

/** How much happened in a lane when: a bar for each stretch of time, with what went wrong in it. */
function Density({ summary, at, range, width }: { summary: Summary; at: number; range: Range; width: number }) {
  const most = useMemo(() => Math.max(1, ...summary.lanes.flatMap((lane) => lane.buckets.map((one) => one.events))), [summary]);
  const step = Math.max(1.5, (summary.bucket_seconds / (range.to - range.from)) * width - 0.5);
  return (
    <>
      {summary.lanes[at]!.buckets
        .filter((one) => one.start + summary.bucket_seconds > range.from && one.start < range.to)
        .map((one) => {
          const tall = 3 + (ROW - 18) * (Math.log1p(one.events) / Math.log1p(most));
          const x = xOf(one.start, range, width);
          return (
            <g key={one.start}>
              <rect class="bar" x={x} width={step} y={ROW - tall} height={tall}>
                <title>{`${count(one.events, "event")}, ${count(one.errors, "error")}`}</title>
              </rect>
              {one.errors > 0 && <circle class="mark error" cx={x + step / 2} cy={ROW - 4} r={3.5} />}
            </g>
          );
        })}
    </>
  );
}

function Marks({ offsets, summary, range, width }: { offsets: number[]; summary: Summary; range: Range; width: number }) {
  return (
    <>
      {offsets.map((offset) => {
        const time = offset ? timeOf(summary, offset) : null;
        if (time === null || time < range.from || time > range.to) return null;
        return (
          <path key={offset} class="mark snapshot" transform={`translate(${xOf(time, range, width)} ${ROW - 5})`} d="M0-5 5 0 0 5-5 0z">
            <title>{`a snapshot that covers offset ${offset}`}</title>
          </path>
        );
      })}
    </>
  );
}

/** A bar from the last event of a lane that somebody holds: nothing of others lands there. */
function LeaseMark({ lane, summary, range, width }: { lane: Lane | undefined; summary: Summary; range: Range; width: number }) {
  if (!lane?.lease) return null;
  const since = lane.last_offset ? timeOf(summary, lane.last_offset) : null;
  const x = Math.max(0, since === null ? 0 : xOf(since, range, width));
  if (x >= width) return null;
  return (
    <rect class="mark lease" x={x} width={width - x} y={ROW - 4} height={3}>
      <title>{`held by ${lane.lease}`}</title>
    </rect>
  );
}

/** Each event where it was, and a line from the one that it came from. */
function Events({ id, events, names, range, width }: { id: string; events: RunEvent[]; names: string[]; range: Range; width: number }) {
  const rows = new Map(names.map((name, at) => [name, AXIS + at * ROW]));
  const y = (event: RunEvent) => (rows.get(event.lane_id) ?? AXIS + (names.length - 1) * ROW) + 22;
  const spans = new Map(events.map((event) => [event.span_id, event]));
  const seen = events.filter((event) => event.ts >= range.from && event.ts <= range.to);
  return (
    <>
      {seen.map((event) => {
        const parent = event.parent_span_id === null ? undefined : spans.get(event.parent_span_id);
        if (!parent) return null;
        const [x1, x2] = [xOf(parent.ts, range, width), xOf(event.ts, range, width)];
        return <line key={event.offset} class="span" x1={x1} x2={x2} y1={y(parent)} y2={y(event)} style={{ color: laneColour(event.lane_id) }} />;
      })}
      {seen.map((event) => (
        <rect
          key={event.offset}
          class={`one ${markOf(event.kind)}`}
          style={{ color: laneColour(event.lane_id) }}
          x={xOf(event.ts, range, width) - 2}
          y={y(event) - 6}
          width={4}
          height={12}
          onClick={() => go(link(id, { offset: event.offset }))}
        >
          <title>{`${event.offset} ${event.kind}, ${clock(event.ts)}`}</title>
        </rect>
      ))}
    </>
  );
}

function markOf(kind: string): string {
  if (kind.endsWith(".error")) return "error";
  if (kind.startsWith("human.")) return "human";
  return kind.startsWith("checkpoint.") || kind === "state.snapshot" ? "snapshot" : "";
}
