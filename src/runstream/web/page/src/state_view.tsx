// The state of a run, or of a lane of it, at any offset; what changed between two; and the snapshots that are kept.

import { useEffect, useState } from "preact/hooks";
import { get, runPath, type Fields, type Lane, type Run } from "./api";
import { changes } from "./diff";
import { count } from "./format";
import { loadPatiently, usePolled, type Polled } from "./polled";
import { goWith, link, type Route } from "./route";
import { Value } from "./value";

interface StateAt {
  at: number;
  offset: number;
  revision: number;
  state: Fields | null;
}

interface Snapshots {
  snapshots: { offset: number; revision: number }[];
  next: string | null;
}

const SLIDE_MILLISECONDS = 80;
const NOTHING: Polled<StateAt> = { value: null, problem: null };

export function StateView({ run, route }: { run: Run; route: Route }) {
  const ofLanes = usePolled<{ lanes: Lane[] }>(runPath(run.id, "/lanes"), null);
  const lanes = ofLanes.value?.lanes ?? null;
  const { value: own, problem: ownProblem } = usePolled<StateAt>(runPath(run.id, "/state"), null);
  const asked = route.query.get("of");
  // a run whose lanes alone have states, as LangGraph's threads, shows one of these
  const lane = asked ?? (own?.state === null ? (lanes?.find((one) => one.snapshot_offset !== null)?.lane_id ?? "") : "");
  const at = numberIn(route, "at", run.last_offset) ?? run.last_offset;
  const from = numberIn(route, "from", run.last_offset);
  const { value: after, problem: afterProblem } = useStateAt(run.id, lane, at);
  const { value: before, problem: beforeProblem } = useStateAt(run.id, lane, from);
  const problem = afterProblem ?? beforeProblem ?? ofLanes.problem ?? ownProblem;
  return (
    <>
      <form class="search" onSubmit={(event) => event.preventDefault()}>
        <label>
          State of
          <select value={lane} onChange={(event) => goWith(route, { of: event.currentTarget.value || null })}>
            <option value="">the run</option>
            {lanes?.filter((one) => one.snapshot_offset !== null).map((one) => (
              <option key={one.lane_id} value={one.lane_id}>
                lane {one.lane_id}
              </option>
            ))}
          </select>
        </label>
        <Slider name="At offset" value={at} most={run.last_offset} onSlide={(offset) => goWith(route, { at: offset })} />
        {from !== null && (
          <Slider name="Compared with" value={from} most={run.last_offset} onSlide={(offset) => goWith(route, { from: offset })} />
        )}
        <label class="check">
          <input
            type="checkbox"
            checked={from !== null}
            onChange={(event) => goWith(route, { from: event.currentTarget.checked ? Math.max(0, (after?.offset ?? at) - 1) : null })}
          />
          compare
        </label>
      </form>
      {problem && <p role="alert">{problem.message}</p>}
      {after && <Covered run={run} state={after} />}
      {from !== null && before && after && <Changes before={before} after={after} />}
      {from === null && after?.state && (
        <section aria-label="State" class="value">
          <Value value={after.state} />
        </section>
      )}
      <History key={lane} run={run} lane={lane} route={route} />
    </>
  );
}

function numberIn(route: Route, name: string, most: number): number | null {
  const text = route.query.get(name);
  return text !== null && /^\d{1,15}$/.test(text) ? Math.min(Number(text), most) : null;
}

/** The state at an offset; while it is asked for, the one of the same run and lane before it stays. */
function useStateAt(id: string, lane: string, at: number | null): Polled<StateAt> {
  const of = `${id} ${lane}`;
  const [found, setFound] = useState<Polled<StateAt> & { of: string }>({ of, ...NOTHING });
  useEffect(() => {
    if (at === null) {
      setFound({ of, ...NOTHING });
      return undefined;
    }
    const query = new URLSearchParams({ at: String(at), readable: "true", ...(lane && { lane }) });
    const load = (signal: AbortSignal) => get<StateAt>(runPath(id, `/state?${query}`), signal);
    return loadPatiently(load, SLIDE_MILLISECONDS, (found) => setFound({ of, ...found }));
  }, [of, at]);
  return found.of === of ? found : NOTHING;
}

function Slider({ name, value, most, onSlide }: { name: string; value: number; most: number; onSlide: (offset: number) => void }) {
  return (
    <label class="slider">
      {name}
      <span>
        <input type="range" min="0" max={most} value={value} onInput={(event) => onSlide(Number(event.currentTarget.value))} />
        <input
          type="number"
          min="0"
          max={most}
          value={value}
          aria-label={`${name}, as a number`}
          onChange={(event) => onSlide(Number(event.currentTarget.value))}
        />
      </span>
    </label>
  );
}

function Covered({ run, state }: { run: Run; state: StateAt }) {
  const { at } = state;
  if (state.state === null) return <p role="status">No snapshot is kept that covers no event after offset {count(at)}.</p>;
  const since = at - state.offset;
  return (
    <p role="status" data-covers={state.offset}>
      The snapshot that covers offset {count(state.offset)}, of revision {count(state.revision)}
      {since > 0 ? "; after it came " : "."}
      {since > 0 && <a href={link(run.id, { offset: state.offset + 1 })}>{count(since, "event")}</a>}
    </p>
  );
}

function Changes({ before, after }: { before: StateAt; after: StateAt }) {
  const found = changes(before.state ?? {}, after.state ?? {});
  return (
    <section aria-label="What changed">
      <h2>
        From the snapshot at {count(before.offset)} to that at {count(after.offset)}: {count(found.length, "change")}
      </h2>
      {found.length > 0 && (
        <table class="changes">
          <thead>
            <tr>
              <th scope="col">Where</th>
              <th scope="col">Before</th>
              <th scope="col">After</th>
            </tr>
          </thead>
          <tbody>
            {found.slice(0, 500).map(({ path, before: one, after: other }) => (
              <tr key={path} data-path={path}>
                <th scope="row">{path}</th>
                <td class="removed">{one === undefined ? "—" : <Value value={one} depth={2} />}</td>
                <td class="added">{other === undefined ? "—" : <Value value={other} depth={2} />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

function History({ run, lane, route }: { run: Run; lane: string; route: Route }) {
  const [pages, setPages] = useState<Snapshots[]>([]);
  const [wanted, setWanted] = useState(lane ? `?lane=${encodeURIComponent(lane)}` : "");
  const { value, problem } = usePolled<Snapshots>(runPath(run.id, `/snapshots${wanted}`), null);
  useEffect(() => {
    if (value) setPages((before) => [...before, value]);
  }, [value]);
  const next = pages.at(-1)?.next ?? null;
  const kept = pages.flatMap((page) => page.snapshots);
  if (kept.length === 0 && !problem) return null;
  return (
    <section aria-label="Snapshots that are kept">
      <h2>Snapshots that are kept</h2>
      {problem && <p role="alert">{problem.message}</p>}
      <ul class="kept">
        {kept.map((snapshot) => (
          <li key={snapshot.offset}>
            <a href={link(run.id, { ...Object.fromEntries(route.query), at: snapshot.offset })}>offset {count(snapshot.offset)}</a>{" "}
            <small>revision {count(snapshot.revision)}</small>
          </li>
        ))}
      </ul>
      {next !== null && (
        <button type="button" onClick={() => setWanted(next)}>
          Earlier ones
        </button>
      )}
    </section>
  );
}
