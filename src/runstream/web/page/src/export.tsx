// A run as a file of JSON lines, and the command that shows it in a terminal.

import { address, runPath, type Run } from "./api";

export function Export({ run, offset }: { run: Run; offset: number | null }) {
  const named = `'${run.run_id.replaceAll("'", `'\\''`)}'`;
  const command = `runstream show ${named}${offset === null ? "" : ` --at ${offset}`}`;
  const file = address(runPath(run.id, "/export"));
  return (
    <details>
      <summary>Export…</summary>
      <p>
        <a href={file} download>
          Save as JSON lines
        </a>
        , lossless; it breaks off at a record that cannot be read:{" "}
        <a href={`${file}?skip_corrupt=true`} download>
          save without those
        </a>
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
