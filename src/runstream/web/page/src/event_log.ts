// The events of a run that are held here: a part without holes, which grows at both ends, and at its end follows
// what comes. It holds so many at most, of so much text, and lets go of the others: they are asked for again.

import { address, AGAIN, ENDED, get, isPassing, parse, Problem, runPath, type EventPage, type Json, type Run, type RunEvent } from "./api";

const MOST = 20_000;
const MOST_CHARACTERS = 50_000_000;
const SPARE_CHARACTERS = 1_000_000;
const PAGE = 500;

export interface Filter {
  lane: string | null;
  kinds: string[];
}

/**
 * live: what comes is shown; away: it is awaited that the server comes back; awaited: that the run begins;
 * apart: there is more after the last.
 */
export type LogState = "loading" | "live" | "away" | "awaited" | "apart" | "ended" | "failed";

export class EventLog {
  events: RunEvent[] = [];
  state: LogState = "loading";
  /** Why it failed, or what became of the run. */
  note = "";
  /** Up to here all that is wanted is here or was let go of, whatever the filter left out. */
  private seen = "0";
  private readonly sizes = new WeakMap<RunEvent, number>();
  private characters = 0;
  private earlierQuery: string | null = null;
  private source: EventSource | null = null;
  private pending: RunEvent[] = [];
  private isScheduled = false;
  private isAsking = false;
  /** How often it was opened: what was asked for before is not wanted any more. */
  private turn = 0;
  private isClosed = false;
  private timer = 0;

  /** `changed` is called at most once for each frame that is drawn. */
  constructor(
    private readonly id: string,
    private readonly filter: Filter,
    /** Whether the reader wants to see what comes, so that the oldest are let go of and not the newest. */
    public isFollowed: boolean,
    private readonly changed: () => void,
  ) {}

  get hasEarlier(): boolean {
    return this.earlierQuery !== null;
  }

  /** Show the end of the run, or what is around an offset. */
  async open(at: number | null): Promise<void> {
    this.disconnect();
    this.events = [];
    this.characters = 0;
    this.earlierQuery = null;
    this.state = "loading";
    this.note = "";
    this.turn += 1;
    this.isAsking = false;
    await this.load(at);
  }

  private async load(at: number | null): Promise<void> {
    const { turn } = this;
    await this.ask(async () => {
      const run = await this.wanted(get<Run>(runPath(this.id)));
      if (this.state !== "loading") this.note = ""; // why it did not load before
      const around = at !== null && at < run.last_offset ? at : null;
      const before = around === null ? {} : { before: around + 1 };
      const page = await this.page(this.query({ order: "desc", limit: around === null ? PAGE : 100, ...before }));
      this.append(eventsOf(page).reverse());
      this.earlierQuery ??= page.next;
      const isLast = around === null && this.last && this.last.offset >= run.last_offset;
      this.seen = isLast ? this.last!.cursor : String(around ?? run.last_offset);
      if (around === null) this.connect();
      else await this.readOn({ isOldKept: true });
    });
    if (turn === this.turn && this.isAwaited) this.timer = window.setTimeout(() => void this.load(at), AGAIN);
  }

  /** Whether nothing is here yet of what may come by itself. */
  private get isAwaited(): boolean {
    return !this.events.length && !this.source && (this.state === "away" || this.state === "awaited");
  }

  async earlier(): Promise<void> {
    const query = this.earlierQuery;
    if (query === null) return;
    await this.ask(async () => {
      const page = await this.pageOfSome(query);
      if (query !== this.earlierQuery) return; // the oldest were let go of meanwhile
      const came = eventsOf(page).reverse();
      for (const event of came) this.weigh(event);
      this.events = [...came, ...this.events];
      this.earlierQuery = page.next;
      if (this.isOver(this.events.length)) this.stepApart();
    });
  }

  async later(): Promise<void> {
    if (this.state === "apart") await this.ask(() => this.readOn());
  }

  /** The reader wants to see what comes, or does not any more. */
  follow(isWanted: boolean): void {
    if (isWanted === this.isFollowed) return;
    this.isFollowed = isWanted;
    if (isWanted && this.state === "apart") void this.open(null);
    this.changed();
  }

  close(): void {
    this.isClosed = true;
    this.turn += 1;
    this.disconnect();
  }

  private get last(): RunEvent | undefined {
    return this.events.at(-1);
  }

  private query(more: Record<string, string | number>): string {
    const query = new URLSearchParams(this.filter.kinds.map((kind) => ["kind", kind]));
    if (this.filter.lane !== null) query.set("lane", this.filter.lane);
    query.set("readable", "true");
    for (const [name, value] of Object.entries(more)) query.set(name, String(value));
    return `?${query}`;
  }

  private page(query: string): Promise<EventPage> {
    return this.wanted(get<EventPage>(runPath(this.id, `/events${query}`)));
  }

  /** The next page that has something in it: a page looks at so many events, none of which may be wanted. */
  private async pageOfSome(query: string): Promise<EventPage> {
    for (;;) {
      const page = await this.page(query);
      if (page.next === null || page.events.length + page.unreadable.length > 0) return page;
      query = page.next;
    }
  }

  /** An answer, unless the log was opened anew meanwhile. */
  private async wanted<T>(answer: Promise<T>): Promise<T> {
    const turn = this.turn;
    const outcome = await answer.then(
      (value) => ({ value }),
      (problem: Error) => ({ problem }),
    );
    if (turn !== this.turn) throw new Unwanted();
    if ("problem" in outcome) throw outcome.problem;
    return outcome.value;
  }

  /** One question at a time; what goes wrong is shown. */
  private async ask(work: () => Promise<void>): Promise<void> {
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      await work();
    } catch (problem) {
      if (problem instanceof Unwanted) return;
      if (!this.events.length) this.state = isAbsent(problem) ? "awaited" : isPassing(problem as Error) ? "away" : "failed";
      this.note = (problem as Error).message;
    }
    this.isAsking = false;
    if (!this.isClosed) this.changed();
  }

  private async readOn({ isOldKept = false, isEnded = false } = {}): Promise<void> {
    const page = await this.pageOfSome(this.query({ after: this.seen, limit: PAGE }));
    this.seen = page.cursor ?? this.seen;
    if (!this.append(eventsOf(page), isOldKept)) return;
    if (page.next !== null) this.state = "apart";
    else if (isEnded) this.state = "ended";
    else this.connect();
  }

  private connect(): void {
    if (this.isClosed) return;
    this.state = "live";
    const source = new EventSource(address(runPath(this.id, `/stream${this.query({ after: this.seen })}`)));
    this.source = source;
    const told = (name: string, heard: (facts: { [fact: string]: unknown }) => void) =>
      source.addEventListener(name, (message) => {
        heard(parse((message as MessageEvent<string>).data));
        this.schedule();
      });
    source.onopen = () => {
      this.state = "live";
      this.schedule();
    };
    source.onmessage = (message: MessageEvent<string>) => {
      this.pending.push(parse<RunEvent>(message.data));
      this.schedule();
    };
    told("unreadable", (facts) => this.pending.push(unreadable(facts.offset as number)));
    told("lost", () => {
      void this.open(null);
      this.note = "The server had lost some of this run: it is shown anew.";
    });
    told("end", (facts) => {
      source.close();
      this.state = "ended";
      if (facts.status === "deleted") this.note = "The run was deleted.";
    });
    told("problem", (facts) => this.fail(String(facts.detail)));
    source.onerror = () => {
      this.state = "away";
      // closed: all was given (204), or another status; a browser goes on by itself where nothing answered
      if (source.readyState === EventSource.CLOSED) this.timer = window.setTimeout(() => void this.again(), AGAIN);
      this.schedule();
    };
  }

  /** Go on after a stream that a browser does not open again by itself. */
  private async again(): Promise<void> {
    this.flush();
    if (this.isClosed || this.state !== "away") return;
    try {
      const run = await this.wanted(get<Run>(runPath(this.id)));
      await this.readOn({ isEnded: ENDED.has(run.status) });
    } catch (problem) {
      if (problem instanceof Unwanted) return;
      if (!isPassing(problem as Error)) this.fail((problem as Error).message);
      else this.timer = window.setTimeout(() => void this.again(), AGAIN);
    }
    this.schedule();
  }

  private fail(note: string): void {
    this.flush();
    this.disconnect();
    this.state = "failed";
    this.note = note;
  }

  private disconnect(): void {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
    this.pending = [];
  }

  /** Take in what came, once for each frame: a thousand events in a second are drawn sixty times. */
  private schedule(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    const run = () => {
      this.isScheduled = false;
      if (this.isClosed) return;
      this.flush();
      this.changed();
    };
    if (document.hidden) setTimeout(run, 250);
    else requestAnimationFrame(run);
  }

  /** Take in what the stream has brought. */
  private flush(): void {
    const came = this.pending;
    this.pending = [];
    this.seen = came.at(-1)?.cursor ?? this.seen;
    this.append(came, !this.isFollowed);
  }

  /** Take in newer ones, and let go of the oldest where they are too many, or of the newest: false then. */
  private append(came: RunEvent[], isOldKept = false): boolean {
    let last = this.last?.offset ?? 0;
    for (const event of came) {
      if (event.offset <= last) continue; // it is here: the stream began where a page had not yet ended
      last = event.offset;
      this.weigh(event);
      this.events.push(event);
    }
    const { length } = this.events;
    if (!this.isOver(length)) return true;
    if (isOldKept) {
      this.stepApart();
      return false;
    }
    let away = 0;
    // some more than needed, so that not each event that comes moves all of them
    while (away < length - 1 && this.isOver(length - away + PAGE, SPARE_CHARACTERS)) this.letGo(this.events[away++]!);
    this.events = this.events.slice(away);
    this.earlierQuery = this.query({ before: this.events[0]!.offset, order: "desc", limit: PAGE });
    return true;
  }

  /** Let go of the newest: the reader looks at older ones. What was asked for about the newest is not wanted any more. */
  private stepApart(): void {
    this.disconnect();
    let kept = this.events.length;
    while (kept > 1 && this.isOver(kept)) this.letGo(this.events[--kept]!);
    this.events = this.events.slice(0, kept);
    this.seen = this.last!.cursor;
    this.state = "apart";
    this.isFollowed = false;
    this.turn += 1;
    this.isAsking = false;
  }

  private isOver(events: number, spare = 0): boolean {
    return events > MOST || this.characters > MOST_CHARACTERS - spare;
  }

  private weigh(event: RunEvent): void {
    const size = sizeOf(event as never);
    this.sizes.set(event, size);
    this.characters += size;
  }

  private letGo(event: RunEvent): void {
    this.characters -= this.sizes.get(event)!;
  }
}

/** About how many characters a value takes as JSON. */
function sizeOf(value: Json): number {
  let size = 0;
  const left: Json[] = [value];
  while (left.length > 0) {
    const one = left.pop()!;
    size += typeof one === "string" ? one.length + 3 : 8;
    if (typeof one !== "object" || one === null) continue;
    for (const [name, inner] of Object.entries(one)) {
      size += name.length;
      left.push(inner);
    }
  }
  return size;
}

class Unwanted extends Error {}

/** Whether it is a run that is not there: one whose first event has not come has an address already. */
function isAbsent(problem: unknown): boolean {
  return problem instanceof Problem && problem.status === 404;
}

function eventsOf(page: EventPage): RunEvent[] {
  if (page.unreadable.length === 0) return page.events;
  const all = [...page.events, ...page.unreadable.map(unreadable)];
  const isDescending = (page.events[0]?.offset ?? 0) > (page.events.at(-1)?.offset ?? 0);
  return all.sort((one, other) => (isDescending ? other.offset - one.offset : one.offset - other.offset));
}

/** What stands in the place of an event whose record does not read. */
function unreadable(offset: number): RunEvent {
  const none = { run_id: "", session_id: "", lane_id: "", span_id: "", parent_span_id: null, visibility: "" };
  return { ...none, offset, cursor: String(offset), seq: 0, ts: 0, kind: "(does not read)", payload: {} };
}
