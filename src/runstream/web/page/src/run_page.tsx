// One run: what is known of it, and the views of it.

import { runIdOf, runPath, type Run } from "./api";
import { EventsView, offsetOf } from "./events_view";
import { ago, count } from "./format";
import { usePolled } from "./polled";
import { link, type Route } from "./route";
import { Status } from "./status";
import { useLog } from "./use_log";

const EVERY = 2000;
const VIEWS: [string, string][] = [["", "Events"]];

export function RunPage({ id, route }: { id: string; route: Route }) {
  const { value: run, problem } = usePolled<Run>(runPath(id), EVERY);
  const view = route.query.get("view") ?? "";
  const kinds = (route.query.get("kind") ?? "").split(/\s+/).filter(Boolean);
  const log = useLog(id, { lane: route.query.get("lane"), kinds }, offsetOf(route));
  return (
    <>
      <h1>{runIdOf(id)}</h1>
      {problem && <p role="alert">{problem.message}</p>}
      {run && <Facts run={run} />}
      <nav class="views" aria-label="Views">
        {VIEWS.map(([name, words]) => (
          <a key={name} href={link(id, { view: name })} aria-current={view === name ? "page" : undefined}>
            {words}
          </a>
        ))}
      </nav>
      <EventsView id={id} route={route} log={log} />
    </>
  );
}

function Facts({ run }: { run: Run }) {
  return (
    <p class="facts">
      <Status run={run} />
      <span>{count(run.last_offset, "event")}</span>
      {run.archived_offset !== null && <span>archived up to {count(run.archived_offset)}</span>}
      <span title={run.created_at}>began {ago(run.created_at)}</span>
      <span title={run.updated_at}>updated {ago(run.updated_at)}</span>
      {run.session_id && <a href={link(null, { session: run.session_id })}>session {run.session_id}</a>}
      {run.parent && <span>fork</span>}
      {Object.entries(run.tags).map(([name, value]) => (
        <a class="tag" key={name} href={link(null, { tag: `${name}=${value}` })}>
          {name}={value}
        </a>
      ))}
    </p>
  );
}
