// One run: what is known of it, and the views of it.

import { Acting } from "./acting";
import { runIdOf, runPath, type Run } from "./api";
import { BranchView } from "./branch_view";
import { ConversationView } from "./conversation_view";
import { EventsView, offsetOf } from "./events_view";
import { Export } from "./export";
import { ago, count } from "./format";
import { LanesView } from "./lanes_view";
import { usePolled } from "./polled";
import { link, type Route } from "./route";
import { StateView } from "./state_view";
import { Status } from "./status";
import { UsageView } from "./usage_view";
import { useLog } from "./use_log";

const EVERY = 2000;
const VIEWS: [string, string][] = [
  ["", "Events"],
  ["talk", "Conversation"],
  ["lanes", "Lanes"],
  ["state", "State"],
  ["forks", "Forks"],
  ["usage", "Usage"],
];

export function RunPage({ id, route }: { id: string; route: Route }) {
  const name = runIdOf(id);
  return name === null ? <NoRun id={id} /> : <NamedRun id={id} name={name} route={route} />;
}

function NoRun({ id }: { id: string }) {
  return (
    <>
      <h1>No run</h1>
      <p role="alert">
        The address names no run: “{id}” is not the unpadded base64url of a run's id. <a href={link(null, { contains: id })}>Search the runs for it</a>
      </p>
    </>
  );
}

function NamedRun({ id, name, route }: { id: string; name: string; route: Route }) {
  const { value: run, problem } = usePolled<Run>(runPath(id), EVERY);
  const view = route.query.get("view") ?? "";
  return (
    <>
      <h1>{name}</h1>
      {problem && <p role="alert">{problem.message}</p>}
      {run && <Facts run={run} />}
      {run && (
        <Acting run={run}>
          <Export run={run} offset={offsetOf(route)} />
        </Acting>
      )}
      <nav class="views" aria-label="Views">
        {VIEWS.map(([name, words]) => (
          <a key={name} href={link(id, { view: name })} aria-current={view === name ? "page" : undefined}>
            {words}
          </a>
        ))}
      </nav>
      {(view === "" || view === "talk") && <Followed id={id} route={route} isTalk={view === "talk"} />}
      {run && view === "lanes" && <LanesView run={run} />}
      {run && view === "state" && <StateView run={run} route={route} />}
      {run && view === "forks" && <BranchView run={run} />}
      {run && view === "usage" && <UsageView run={run} />}
    </>
  );
}

/** The views that follow the run's events: both show the same log. */
function Followed({ id, route, isTalk }: { id: string; route: Route; isTalk: boolean }) {
  const kinds = (route.query.get("kind") ?? "").split(/\s+/).filter(Boolean);
  const log = useLog(id, { lane: route.query.get("lane"), kinds }, offsetOf(route));
  return isTalk ? <ConversationView id={id} log={log} /> : <EventsView id={id} route={route} log={log} />;
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
      {run.parent && <a href={link(run.id, { view: "forks" })}>fork of {run.parent.run_id}</a>}
      {Object.entries(run.tags).map(([name, value]) => (
        <a class="tag" key={name} href={link(null, { tag: `${name}=${value}` })}>
          {name}={value}
        </a>
      ))}
    </p>
  );
}
