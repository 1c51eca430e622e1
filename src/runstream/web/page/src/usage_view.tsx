// Tokens, cost and time by lane and by tool.

import type { Run } from "./api";
import { count, duration } from "./format";
import { useSummary, type Counts, type Summary } from "./summary";

export function UsageView({ run }: { run: Run }) {
  const { value, problem } = useSummary(run.id);
  if (problem) return <p role="alert">{problem.message}</p>;
  if (!value) return <p role="status">Counts…</p>;
  return (
    <>
      <UpTo summary={value} />
      <h2>By lane</h2>
      <div class="wide" tabIndex={0} role="region" aria-label="By lane">
        <table>
          <Head names={["Lane", "Events", "Errors", "Time", "Tokens in", "Tokens out", "Cost"]} />
          <tbody>
            {value.lanes.map((lane) => (
              <CountsRow key={lane.lane_id} name={lane.lane_id ?? "others"} counts={lane} />
            ))}
            <CountsRow name="all" counts={value.total} />
          </tbody>
        </table>
      </div>
      {value.tools.length > 0 && <h2>By tool</h2>}
      {value.tools.length > 0 && (
        <div class="wide" tabIndex={0} role="region" aria-label="By tool">
          <table>
            <Head names={["Tool", "Calls", "Errors", "Time", "Tokens in", "Tokens out", "Cost"]} />
            <tbody>
              {value.tools.map((tool) => (
                <tr key={tool.tool}>
                  <th scope="row">{tool.tool ?? "others"}</th>
                  <Numbers of={[count(tool.calls), count(tool.errors), duration(tool.seconds)]} />
                  <Numbers of={[count(tool.input_tokens), count(tool.output_tokens), dollars(tool.cost)]} />
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

/** How far the numbers have come. */
export function UpTo({ summary }: { summary: Summary }) {
  return (
    <p role="status" class="sum" data-complete={summary.complete}>
      {summary.complete
        ? `All ${count(summary.last_offset, "event")}`
        : `Up to offset ${count(summary.offset)} of ${count(summary.last_offset)}; it is being counted`}
    </p>
  );
}

function Head({ names }: { names: string[] }) {
  return (
    <thead>
      <tr>
        {names.map((name, at) => (
          <th key={name} scope="col" class={at ? "number" : ""}>
            {name}
          </th>
        ))}
      </tr>
    </thead>
  );
}

function CountsRow({ name, counts }: { name: string; counts: Counts }) {
  const seconds = counts.first_ts !== null && counts.last_ts !== null ? counts.last_ts - counts.first_ts : 0;
  return (
    <tr>
      <th scope="row">{name}</th>
      <Numbers of={[count(counts.events), count(counts.errors), duration(seconds)]} />
      <Numbers of={[count(counts.input_tokens), count(counts.output_tokens), dollars(counts.cost)]} />
    </tr>
  );
}

function Numbers({ of }: { of: string[] }) {
  return (
    <>
      {of.map((text, at) => (
        <td key={at} class="number">
          {text}
        </td>
      ))}
    </>
  );
}

function dollars(cost: number): string {
  return cost === 0 ? "0" : `$${cost < 1 ? cost.toPrecision(3) : cost.toFixed(2)}`;
}
