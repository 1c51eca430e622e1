// All that an event says.

import type { RunEvent } from "./api";
import { dayAndTime } from "./format";
import { link } from "./route";
import { Value } from "./value";

const NAMED = ["offset", "cursor", "run_id", "session_id", "lane_id", "span_id", "parent_span_id", "seq", "ts", "kind", "visibility", "payload"];

interface Properties {
  id: string;
  event: RunEvent;
  /** The text of all pieces that the row of this event joins. */
  text: string | null;
  onClose: () => void;
}

export function Details({ id, event, text, onClose }: Properties) {
  const added = Object.entries(event).filter(([name]) => !NAMED.includes(name));
  return (
    <section class="details" aria-label={`Event ${event.offset}`}>
      <header>
        <h2>
          {event.kind} <small>at offset {event.offset}</small>
        </h2>
        <button type="button" onClick={onClose} aria-label="Close the details">
          ×
        </button>
      </header>
      <nav aria-label="Of this event">
        <a href={link(id, { offset: event.offset })}>Link to it</a>
        <a href={link(id, { view: "state", at: event.offset })}>State here</a>
      </nav>
      {text !== null && <p class="text">{text}</p>}
      <h3>Payload</h3>
      <Value value={event.payload} />
      <h3>Event</h3>
      <dl class="object">
        {[
          ["time", event.ts ? dayAndTime(event.ts) : ""],
          ["lane", event.lane_id],
          ["span", event.span_id],
          ["parent span", event.parent_span_id ?? ""],
          ["seq", String(event.seq)],
          ["visibility", event.visibility],
          ["cursor", event.cursor],
        ].map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {added.length > 0 && <Value value={Object.fromEntries(added)} />}
    </section>
  );
}
