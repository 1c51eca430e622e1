// The runs: searched, live, with who waits for an answer.

import { pathId, runPath, type Run } from "./api";
import { ago, count } from "./format";
import { Health } from "./health";
import { usePolled } from "./polled";
import { goWith, link, type Route } from "./route";
import { Status } from "./status";

const EVERY = 2000;
const SHOWN = 200;
const STATUSES = ["pending", "running", "paused", "completed", "failed", "cancelled"];
const TIMES: [string, string][] = [
  ["", "any time"],
  ["600", "the last 10 minutes"],
  ["3600", "the last hour"],
  ["86400", "the last day"],
  ["604800", "the last week"],
];

/** The query of the server that finds what the page's query asks for. */
function runsPath(query: URLSearchParams): string {
  const asked = new URLSearchParams({ limit: String(SHOWN), last: "true" });
  if (query.get("waiting") === "1") asked.set("waiting", "true");
  for (const name of ["contains", "session", "status"]) {
    const value = query.get(name);
    if (value) asked.set(name, value);
  }
  for (const tag of (query.get("tag") ?? "").split(/\s+/).filter((one) => one.includes("="))) asked.append("tag", tag);
  const within = Number(query.get("within"));
  // to the minute, so that the path stays the same from one time to the next
  if (within) asked.set("updated_after", String(Math.floor(Date.now() / 60_000) * 60 - within));
  return `runs?${asked}`;
}

export function RunsPage({ route }: { route: Route }) {
  const { value, problem } = usePolled<{ runs: Run[]; more: boolean; next: string | null }>(runsPath(route.query), EVERY);
  const named = useRunNamed(route.query.get("contains") ?? "", value?.more ?? false);
  const found = value?.runs ?? [];
  const runs = named && !found.some((run) => run.id === named.id) ? [named, ...found] : found;
  const waiting = runs.filter((run) => run.waiting_for.length > 0).length;
  return (
    <>
      <h1>Runs</h1>
      <Health />
      <Search route={route} />
      {problem && <p role="alert">{problem.message}</p>}
      <p class="sum" role="status">
        {value === null ? "Asks for the runs…" : `${count(runs.length, "run")}${waiting ? `, ${waiting} of them wait for an answer` : ""}`}
      </p>
      {runs.length > 0 && <RunTable runs={runs} />}
      {value?.more && (
        <p>
          {found.length === SHOWN ? `These are the ${SHOWN} updated last.` : "There are more runs than one search looks at: it looked at those updated last."}{" "}
          Session, tags, status or time narrow it.
        </p>
      )}
    </>
  );
}

/** The run whose id is all of what is searched for, wherever it stands among the others; null where there is none. */
function useRunNamed(runId: string, isWanted: boolean): Run | null {
  const { value } = usePolled<Run>(isWanted && runId !== "" ? runPath(pathId(runId)) : null, null);
  return isWanted && value?.run_id === runId ? value : null;
}

function Search({ route }: { route: Route }) {
  const text = (name: string) => route.query.get(name) ?? "";
  const note = (name: string) => (event: { currentTarget: HTMLInputElement | HTMLSelectElement }) =>
    goWith(route, { [name]: event.currentTarget.value });
  return (
    <form class="search" role="search" onSubmit={(event) => event.preventDefault()}>
      <label>
        Run id
        <input type="search" value={text("contains")} onInput={note("contains")} placeholder="part of it" />
      </label>
      <label>
        Session
        <input type="search" value={text("session")} onChange={note("session")} />
      </label>
      <label>
        Tags
        <input type="search" value={text("tag")} onChange={note("tag")} placeholder="NAME=VALUE" />
      </label>
      <label>
        Status
        <select value={text("status")} onChange={note("status")}>
          <option value="">any</option>
          {STATUSES.map((status) => (
            <option key={status}>{status}</option>
          ))}
        </select>
      </label>
      <label>
        Updated within
        <select value={text("within")} onChange={note("within")}>
          {TIMES.map(([seconds, name]) => (
            <option key={seconds} value={seconds}>
              {name}
            </option>
          ))}
        </select>
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={text("waiting") === "1"}
          onChange={(event) => goWith(route, { waiting: event.currentTarget.checked ? "1" : null })}
        />
        waits for an answer
      </label>
    </form>
  );
}

function RunTable({ runs }: { runs: Run[] }) {
  return (
    <table class="runs">
      <thead>
        <tr>
          <th scope="col">Run</th>
          <th scope="col">Status</th>
          <th scope="col">Events</th>
          <th scope="col">Updated</th>
          <th scope="col">Session, tags</th>
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => (
          <tr key={run.id} data-run={run.run_id}>
            <td>
              <a href={link(run.id)}>{run.run_id}</a>
              {run.waiting_for.map((question) => (
                <div class="asks" key={question.question_id}>
                  asks: {question.text || "for an answer"}
                </div>
              ))}
              {run.last && run.waiting_for.length === 0 && (
                <div class="last">
                  {run.last.kind} {run.last.text}
                </div>
              )}
            </td>
            <td>
              <Status run={run} />
            </td>
            <td class="number">{count(run.last_offset)}</td>
            <td>
              <time dateTime={run.updated_at} title={run.updated_at}>
                {ago(run.updated_at)}
              </time>
            </td>
            <td>
              {run.session_id}
              {Object.entries(run.tags).map(([name, value]) => (
                <span class="tag" key={name}>
                  {name}={value}
                </span>
              ))}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
