// Any value of a run, as text. Nothing of it is ever taken as HTML.

import { useState } from "preact/hooks";
import type { Json } from "./api";
import { count, line } from "./format";

const LONG = 2000; // characters of a text that are shown at once
const MANY = 100; // elements likewise
const DEEP = 3; // levels that are open at first

export function Value({ value, depth = 0 }: { value: Json; depth?: number }) {
  if (typeof value === "string") return <Text text={value} />;
  if (value === null || typeof value !== "object") return <code class={value === null ? "null" : typeof value}>{String(value)}</code>;
  const entries = Object.entries(value);
  if (entries.length === 0) return <code class="null">{Array.isArray(value) ? "[]" : "{}"}</code>;
  return <Entries entries={entries} isList={Array.isArray(value)} depth={depth} />;
}

function Text({ text }: { text: string }) {
  const [isWhole, setIsWhole] = useState(false);
  if (text.length <= LONG || isWhole) return <span class="string">{text === "" ? "(empty text)" : text}</span>;
  return (
    <span class="string">
      {text.slice(0, LONG)}…{" "}
      <button type="button" onClick={() => setIsWhole(true)}>
        all {count(text.length, "character")}
      </button>
    </span>
  );
}

function Entries({ entries, isList, depth }: { entries: [string, Json][]; isList: boolean; depth: number }) {
  const [isOpen, setIsOpen] = useState(depth < DEEP);
  const [most, setMost] = useState(MANY);
  if (!isOpen) {
    return (
      <button type="button" class="closed" onClick={() => setIsOpen(true)}>
        {isList ? `[${count(entries.length, "element")}]` : `{${line(entries.map(([name]) => name).join(", "), 60)}}`}
      </button>
    );
  }
  return (
    <dl class={isList ? "list" : "object"}>
      {entries.slice(0, most).map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            <Value value={value} depth={depth + 1} />
          </dd>
        </div>
      ))}
      {entries.length > most && (
        <div>
          <dt />
          <dd>
            <button type="button" onClick={() => setMost(most + 10 * MANY)}>
              more: {count(entries.length - most)} are left
            </button>
          </dd>
        </div>
      )}
    </dl>
  );
}
