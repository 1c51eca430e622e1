// A list of events of which only what is seen is in the document, however many there are.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { clock, line } from "./format";
import { laneColour } from "./lanes";
import { rowAt, type Row } from "./rows";

const ROW = 26; // pixels, as in style.css
const MORE = 10; // rows above and below what is seen

interface Properties {
  rows: Row[];
  selected: number | null;
  isFollowed: boolean;
  onSelect: (offset: number) => void;
  /** The reader has left the end, or is back at it. */
  onFollow: (isFollowed: boolean) => void;
  onEdge: (edge: "earlier" | "later") => void;
}

export function EventList({ rows, selected, isFollowed, onSelect, onFollow, onEdge }: Properties) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const anchor = useRef<{ offset: number; index: number } | null>(null);
  const chosen = selected === null ? -1 : rowAt(rows, selected);

  // what is seen stays where it is when rows come before it, or go
  useLayoutEffect(() => {
    const element = box.current!;
    const before = anchor.current;
    if (isFollowed) element.scrollTop = element.scrollHeight;
    else if (before) {
      const moved = rowAt(rows, before.offset) - before.index;
      if (moved !== 0) element.scrollTop += moved * ROW;
    }
    note();
  }, [rows, rows.length, isFollowed]);

  // a row that was chosen elsewhere comes into view
  useEffect(() => {
    const element = box.current!;
    if (chosen < 0) return;
    const top = chosen * ROW;
    if (top < element.scrollTop || top + ROW > element.scrollTop + element.clientHeight) {
      element.scrollTop = top - element.clientHeight / 2;
    }
  }, [selected, chosen >= 0]);

  useEffect(() => {
    const observer = new ResizeObserver(note);
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);

  function note(): void {
    const { scrollTop, clientHeight } = box.current!;
    const index = Math.floor(scrollTop / ROW);
    const row = rows[index];
    anchor.current = row ? { offset: row.event.offset, index } : null;
    setView((before) => (before.top === scrollTop && before.height === clientHeight ? before : { top: scrollTop, height: clientHeight }));
  }

  function scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = box.current!;
    const isAtEnd = scrollTop + clientHeight >= scrollHeight - ROW;
    if (scrollTop < view.top && !isAtEnd) onFollow(false);
    if (scrollTop < 5 * ROW) onEdge("earlier");
    if (isAtEnd) onEdge("later");
    note();
  }

  function pressed(event: KeyboardEvent): void {
    const page = Math.max(1, Math.floor(view.height / ROW) - 1);
    const steps: { [key: string]: number } = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || rows.length === 0) return;
    event.preventDefault();
    if (step < 0) onFollow(false);
    const from = chosen < 0 ? rows.length : chosen;
    onSelect(rows[Math.min(rows.length - 1, Math.max(0, from + step))]!.event.offset);
  }

  const first = Math.max(0, Math.floor(view.top / ROW) - MORE);
  const shown = rows.slice(first, Math.ceil((view.top + view.height) / ROW) + MORE);
  return (
    <div
      ref={box}
      class="events"
      role="listbox"
      aria-label="Events"
      aria-activedescendant={chosen >= first && chosen < first + shown.length ? rowId(rows[chosen]!) : undefined}
      tabIndex={0}
      onScroll={scrolled}
      onKeyDown={pressed}
    >
      <div class="all" style={{ height: `${rows.length * ROW}px` }} role="presentation">
        {shown.map((row, index) => (
          <EventRow key={row.event.offset} row={row} at={first + index} of={rows.length} isChosen={first + index === chosen} onSelect={onSelect} />
        ))}
      </div>
    </div>
  );
}

function rowId(row: Row): string {
  return `event-${row.event.offset}`;
}

interface RowProperties {
  row: Row;
  at: number;
  of: number;
  isChosen: boolean;
  onSelect: (offset: number) => void;
}

function EventRow({ row, at, of, isChosen, onSelect }: RowProperties) {
  const { event } = row;
  const offsets = row.count > 1 ? `${event.offset}–${row.lastOffset}` : String(event.offset);
  return (
    <div
      id={rowId(row)}
      class={`event ${kindClass(event.kind)}`}
      role="option"
      aria-selected={isChosen}
      aria-posinset={at + 1}
      aria-setsize={of}
      style={{ top: `${at * ROW}px` }}
      data-offset={event.offset}
      data-last={row.lastOffset}
      onClick={() => onSelect(event.offset)}
    >
      <span class="offset">{offsets}</span>
      <span class="clock">{event.ts ? clock(event.ts) : ""}</span>
      <span class="lane" title={event.lane_id}>
        <i style={{ background: laneColour(event.lane_id) }} />
        {event.lane_id}
      </span>
      <span class="kind">{event.kind}</span>
      <span class="payload">{row.text ?? (Object.keys(event.payload).length ? line(event.payload) : "")}</span>
    </div>
  );
}

function kindClass(kind: string): string {
  if (kind.endsWith("error") || kind.startsWith("(")) return "error";
  if (kind.startsWith("human.")) return "human";
  return kind.startsWith("text.") ? "text" : "";
}
