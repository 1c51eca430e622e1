import type { Run } from "./api";

/** A run's status, in words, with a colour beside them; and that it waits for a person. */
export function Status({ run }: { run: Run }) {
  const waits = run.waiting_for.length > 0;
  return <span class={`status ${waits ? "waits" : run.status}`}>{waits ? `${run.status}, waits` : run.status}</span>;
}
