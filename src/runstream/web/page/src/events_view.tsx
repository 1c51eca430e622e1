// The events of a run: a list that follows, and beside it all that one of them says.

import { useEffect, useMemo } from "preact/hooks";
import type { Lane } from "./api";
import { runPath } from "./api";
import { Details } from "./details";
import { EventList } from "./event_list";
import type { EventLog } from "./event_log";
import { count } from "./format";
import { usePolled } from "./polled";
import { goWith, type Route } from "./route";
import { Rows, rowAt } from "./rows";

interface Properties {
  id: string;
  route: Route;
  log: EventLog;
}

export function EventsView({ id, route, log }: Properties) {
  const isJoined = route.query.get("join") !== "0";
  const selected = offsetOf(route);
  const made = useMemo(() => new Rows(isJoined), [isJoined, log]);
  const rows = made.update(log.events);

  const isHeld = selected === null || (log.events.length > 0 && selected >= log.events[0]!.offset && selected <= log.events.at(-1)!.offset);
  useEffect(() => {
    if (selected === null) return;
    log.follow(false);
    if (!isHeld && log.state !== "loading") void log.open(selected);
  }, [selected]);

  const row = selected === null ? undefined : rows[rowAt(rows, selected)];
  const event = selected === null ? undefined : (log.events[indexOf(log, selected)] ?? row?.event);
  return (
    <>
      <Filters id={id} route={route} />
      <p class="sum">
        <State log={log} />
        <label class="check">
          <input type="checkbox" checked={log.isFollowed} onChange={(change) => log.follow(change.currentTarget.checked)} /> follow
        </label>
        {log.hasEarlier && (
          <button type="button" onClick={() => void log.earlier()}>
            Load earlier
          </button>
        )}
      </p>
      <div class={event ? "split" : ""}>
        <EventList
          rows={rows}
          selected={selected}
          isFollowed={log.isFollowed}
          onSelect={(offset) => {
            log.follow(false);
            goWith(route, { offset });
          }}
          onFollow={(isWanted) => log.follow(isWanted)}
          onEdge={(edge) => void (edge === "earlier" ? log.earlier() : log.later())}
        />
        {event && (
          <Details
            id={id}
            event={event}
            text={row?.event.offset === event.offset ? (row.text ?? null) : null}
            onClose={() => goWith(route, { offset: null })}
          />
        )}
      </div>
    </>
  );
}

function State({ log }: { log: EventLog }) {
  const words = {
    loading: "loads",
    live: "live",
    awaited: "goes on when the run begins",
    away: "the server does not answer; goes on when it does",
    apart: "there are newer ones",
    ended: "the run has ended",
    failed: "stopped",
  };
  const first = log.events[0]?.offset ?? 0;
  const last = log.events.at(-1)?.offset ?? 0;
  return (
    <>
      <span class={`state ${log.state}`} data-state={log.state} role="status">
        {words[log.state]}
      </span>
      {last > 0 && (
        <span>
          offsets {count(first)} to {count(last)}
        </span>
      )}
      {log.note && <strong role="alert">{log.note}</strong>}
    </>
  );
}

function Filters({ id, route }: { id: string; route: Route }) {
  const { value } = usePolled<{ lanes: Lane[] }>(runPath(id, "/lanes"), 10_000);
  const isJoined = route.query.get("join") !== "0";
  return (
    <form class="search" onSubmit={(event) => event.preventDefault()}>
      <label>
        Lane
        <select value={route.query.get("lane") ?? ""} onChange={(event) => goWith(route, { lane: event.currentTarget.value })}>
          <option value="">all</option>
          {value?.lanes.map((lane) => <option key={lane.lane_id}>{lane.lane_id}</option>)}
        </select>
      </label>
      <label>
        Kinds
        <input
          type="search"
          list="kinds"
          placeholder="all; several with spaces"
          value={route.query.get("kind") ?? ""}
          onChange={(event) => goWith(route, { kind: event.currentTarget.value.trim() })}
        />
      </label>
      <datalist id="kinds">
        {KINDS.map((kind) => (
          <option key={kind} value={kind} />
        ))}
      </datalist>
      <label class="check">
        <input type="checkbox" checked={isJoined} onChange={(event) => goWith(route, { join: event.currentTarget.checked ? null : "0" })} />
        join pieces of text
      </label>
    </form>
  );
}

const KINDS = [
  "run.started run.finished run.error",
  "agent.started agent.finished agent.error",
  "model.request model.response",
  "text.delta text.done",
  "tool.started tool.args tool.result tool.error",
  "human.approval.requested human.approval.received",
];

export function offsetOf(route: Route): number | null {
  const text = route.query.get("offset");
  return text !== null && /^\d{1,15}$/.test(text) && Number(text) > 0 ? Number(text) : null;
}

function indexOf(log: EventLog, offset: number): number {
  let low = 0;
  let high = log.events.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (log.events[middle]!.offset < offset) low = middle + 1;
    else high = middle;
  }
  return log.events[low]?.offset === offset ? low : -1;
}
