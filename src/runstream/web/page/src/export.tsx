// A run as a file of JSON lines, and the command that shows it in a terminal.

import { useState } from "preact/hooks";
import { get, runPath, type EventPage, type Run } from "./api";
import { count, valueText } from "./format";

const MOST = 100_000;

export function Export({ run, offset }: { run: Run; offset: number | null }) {
  const [told, setTold] = useState("");
  const named = `'${run.run_id.replaceAll("'", `'\\''`)}'`;
  const command = `runstream show ${named}${offset === null ? "" : ` --at ${offset}`}`;
  async function save(): Promise<void> {
    const lines: string[] = [];
    let unreadable = 0;
    let query: string | null = "?limit=1000";
    while (query !== null && lines.length < MOST) {
      const page: EventPage = await get<EventPage>(runPath(run.id, `/events${query}`));
      lines.push(...page.events.map((event) => `${valueText(event as never)}\n`));
      unreadable += page.unreadable.length;
      query = page.next;
      setTold(`${count(lines.length)} of ${count(run.last_offset, "event")}`);
    }
    const file = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
    const link = document.createElement("a");
    link.href = file;
    link.download = `${run.id}.jsonl`;
    link.click();
    URL.revokeObjectURL(file);
    const saved = query === null ? `saved ${count(lines.length, "event")}` : `saved the first ${count(lines.length)}: runstream export gives all`;
    setTold(unreadable ? `${saved}; left out: ${count(unreadable, "record")} that cannot be read` : saved);
  }
  return (
    <details>
      <summary>Export…</summary>
      <p>
        <button type="button" onClick={() => save().catch((problem: Error) => setTold(problem.message))}>
          Save as JSON lines
        </button>{" "}
        <span role="status">{told}</span>
      </p>
      <p>
        In a terminal: <code>{command}</code>
        {isSecureContext && (
          <button type="button" onClick={() => void navigator.clipboard.writeText(command)}>
            Copy
          </button>
        )}
      </p>
    </details>
  );
}
