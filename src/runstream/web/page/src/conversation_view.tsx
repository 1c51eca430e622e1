// A run as a conversation: what was said, asked and answered, and the tools that were called.

import { useState } from "preact/hooks";
import type { Fields, Json, RunEvent } from "./api";
import type { EventLog } from "./event_log";
import { clock, count, line } from "./format";
import { laneColour } from "./lanes";
import { link } from "./route";
import { Rows, textOf, type Row } from "./rows";
import { Value } from "./value";

const MANY = 200; // turns that are shown at once

export function ConversationView({ id, log }: { id: string; log: EventLog }) {
  const [most, setMost] = useState(MANY);
  const turns = turnsOf(new Rows(true).update(log.events));
  const shown = turns.slice(-most);
  return (
    <section class="conversation" aria-label="Conversation">
      {(shown.length < turns.length || log.hasEarlier) && (
        <button
          type="button"
          onClick={() => {
            setMost(most + MANY);
            if (turns.length <= most + MANY) void log.earlier();
          }}
        >
          Earlier
        </button>
      )}
      {turns.length === 0 && <p role="status">{log.state === "loading" ? "Loads…" : "Nothing was said yet."}</p>}
      <ol>
        {shown.map((turn) => (
          <Turn key={turn.event.offset} id={id} turn={turn} />
        ))}
      </ol>
    </section>
  );
}

/** What stands in a conversation: a text that its pieces have told already is not told twice. */
function turnsOf(rows: Row[]): Row[] {
  const said = new Map<string, string>();
  return rows.filter(({ event, text }) => {
    if (text !== null) {
      said.set(event.lane_id, text);
      return true;
    }
    if (event.kind === "text.done") {
      const before = said.get(event.lane_id);
      said.delete(event.lane_id);
      return before === undefined && textOf(event) !== null;
    }
    return /^(tool|human|model|run|agent)\./.test(event.kind) || messagesIn(event).length > 0 || event.payload.asks !== undefined;
  });
}

/** The messages that are new in a LangGraph checkpoint: who said what. What its tasks wrote before says the same. */
function messagesIn(event: RunEvent): Fields[] {
  const messages = event.kind === "checkpoint.saved" ? event.payload.messages : null;
  return Array.isArray(messages) ? messages.filter((one): one is Fields => typeof one === "object" && one !== null && !Array.isArray(one)) : [];
}

function Turn({ id, turn }: { id: string; turn: Row }) {
  const { event } = turn;
  return (
    <li class={`turn ${event.kind.split(".")[0]}`} style={{ borderColor: laneColour(event.lane_id) }}>
      <p class="by">
        <span>{event.lane_id}</span>
        <span>{turn.text === null ? event.kind : "says"}</span>
        <a href={link(id, { offset: event.offset })} title={`event ${event.offset}`}>
          {clock(event.ts)}
        </a>
        {turn.count > 1 && <span>{count(turn.count, "piece")}</span>}
      </p>
      <Said turn={turn} />
    </li>
  );
}

function Said({ turn: { event, text } }: { turn: Row }) {
  const told = text ?? (event.kind === "text.done" ? textOf(event) : textIn(event.payload));
  if (told !== null) return <p class="text">{told}</p>;
  const messages = messagesIn(event);
  if (messages.length > 0) {
    return (
      <dl class="object">
        {messages.flatMap((message, at) =>
          Object.entries(message).map(([who, what]) => (
            <div key={`${at} ${who}`}>
              <dt>{who}</dt>
              <dd class="text">{typeof what === "string" ? what : <Value value={what} depth={2} />}</dd>
            </div>
          )),
        )}
      </dl>
    );
  }
  if (Object.keys(event.payload).length === 0) return null;
  return (
    <details>
      <summary>{line(event.payload, 160)}</summary>
      <Value value={event.payload} />
    </details>
  );
}

/** The text that an event is for, if that is all it says. */
function textIn(payload: Fields): string | null {
  const names = ["text", "question", "answer", "message", "reason"];
  const found = names.map((name) => payload[name]).find((value): value is string => typeof value === "string" && value !== "");
  const others = Object.values(payload).filter((value: Json) => typeof value === "object" && value !== null);
  return found !== undefined && others.length === 0 ? found : null;
}
