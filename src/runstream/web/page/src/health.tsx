// A banner where nobody archives what is due, or a backlog grows.

import { count, duration } from "./format";
import { usePolled } from "./polled";

interface HealthFacts {
  workers: number;
  due: number;
  backlog_events: number;
  oldest_due_seconds: number;
  alarms: string[];
}

const EVERY = 10_000;
const WORDS: { [alarm: string]: string } = {
  "no-worker": "No worker reports that it archives what is due",
  backlog: "The archive lags behind",
  archive: "An archive is required that no worker has",
  parked: "Runs are parked: a worker could not archive them",
  damaged: "Keys of the namespace are damaged",
};

export function Health() {
  const { value } = usePolled<HealthFacts>("health", EVERY);
  if (!value || value.alarms.length === 0) return null;
  const backlog = `${count(value.due, "run")} due, ${count(value.backlog_events, "event")} not archived, for up to ${duration(value.oldest_due_seconds)}`;
  return (
    <div class="banner" role="alert">
      {value.alarms.map((alarm) => WORDS[alarm] ?? alarm).join(". ")}. {backlog}. <code>runstream status</code> tells more.
    </div>
  );
}
