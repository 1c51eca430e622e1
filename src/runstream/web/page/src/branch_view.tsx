// Where a run comes from, and what was forked from it, as a tree.

import { runPath, type Run } from "./api";
import { count } from "./format";
import { usePolled } from "./polled";
import { link } from "./route";

interface Relative {
  id: string;
  run_id: string;
  status: string;
  last_offset: number;
  offset: number;
}

interface Branch {
  ancestors: Relative[];
  forks: Relative[];
  more: boolean;
}

export function BranchView({ run }: { run: Run }) {
  const { value, problem } = usePolled<Branch>(runPath(run.id, "/forks"), 5000);
  if (problem) return <p role="alert">{problem.message}</p>;
  if (!value) return <p role="status">Asks for forks…</p>;
  const forks = (
    <ul>
      {value.forks.map((fork) => (
        <li key={fork.id}>
          <Node one={fork} />
        </li>
      ))}
      {value.more && <li>and more</li>}
    </ul>
  );
  // the nearest ancestor comes first: the tree is made from the run outwards
  const tree = value.ancestors.reduce(
    (inner, ancestor, at) => (
      <ul>
        <li>
          <Node one={{ ...ancestor, offset: value.ancestors[at + 1]?.offset ?? 0 }} />
          {inner}
        </li>
      </ul>
    ),
    <ul>
      <li>
        <strong class="this">{run.run_id}</strong> <small>this run{partsAt(value.ancestors[0]?.offset ?? 0)}</small>
        {value.forks.length > 0 && forks}
      </li>
    </ul>,
  );
  return (
    <section class="tree" aria-label="Forks">
      {tree}
      {value.forks.length === 0 && value.ancestors.length === 0 && <p>It was forked from no run, and none from it.</p>}
    </section>
  );
}

function Node({ one }: { one: Relative }) {
  return (
    <>
      <a href={link(one.id)}>{one.run_id}</a>{" "}
      <small>
        {one.status}, {count(one.last_offset, "event")}
        {partsAt(one.offset)}
      </small>
    </>
  );
}

function partsAt(offset: number): string {
  return offset ? `, parts after offset ${count(offset)}` : "";
}
