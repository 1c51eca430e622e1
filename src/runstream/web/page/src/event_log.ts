// The events of a run that are held here: a part without holes, which grows at both ends, and at its end follows
// what comes. It holds so many at most, and lets go of the others: they are asked for again.

import { address, ENDED, get, parse, Problem, runPath, type EventPage, type Run, type RunEvent } from "./api";

const MOST = 20_000;
const PAGE = 500;
const AGAIN_MILLISECONDS = 1500;
const NO_LIVE_END = 501; // the status of a stream of an archive alone

export interface Filter {
  lane: string | null;
  kinds: string[];
}

/**
 * live: what comes is shown; away: it is awaited that the server comes back; apart: there is more after the last;
 * still: it is of an archive alone, which is not followed.
 */
export type LogState = "loading" | "live" | "away" | "apart" | "still" | "ended" | "failed";

export class EventLog {
  events: RunEvent[] = [];
  state: LogState = "loading";
  /** Why it failed, or what became of the run. */
  note = "";
  /** Whether the reader wants to see what comes, so that the oldest are let go of and not the newest. */
  isFollowed = true;
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
    private readonly changed: () => void,
  ) {}

  get hasEarlier(): boolean {
    return this.earlierQuery !== null;
  }

  /** Show the end of the run, or what is around an offset. */
  async open(at: number | null): Promise<void> {
    this.disconnect();
    this.events = [];
    this.pending = [];
    this.state = "loading";
    this.note = "";
    this.turn += 1;
    this.isAsking = false;
    await this.ask(async () => {
      const run = await this.wanted(get<Run>(runPath(this.id)));
      const around = at !== null && at < run.last_offset ? at : null;
      const before = around === null ? {} : { before: around + 1 };
      const page = await this.page(this.query({ order: "desc", limit: around === null ? PAGE : 100, ...before }));
      this.events = eventsOf(page).reverse();
      this.earlierQuery = page.next;
      if (around === null) this.connect(this.last?.cursor ?? String(run.last_offset));
      else await this.readOn(String(around));
    });
  }

  async earlier(): Promise<void> {
    const query = this.earlierQuery;
    if (query === null) return;
    await this.ask(async () => {
      const page = await this.page(query);
      this.events = [...eventsOf(page).reverse(), ...this.events];
      this.earlierQuery = page.next;
      if (this.events.length > MOST) this.stepApart(MOST);
    });
  }

  async later(): Promise<void> {
    const last = this.last;
    if (this.state === "apart" && last) await this.ask(() => this.readOn(last.cursor));
  }

  close(): void {
    this.isClosed = true;
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
      if (!this.events.length) this.state = "failed";
      this.note = (problem as Error).message;
    }
    this.isAsking = false;
    if (!this.isClosed) this.changed();
  }

  private async readOn(after: string): Promise<void> {
    const page = await this.page(this.query({ after, limit: PAGE }));
    this.append(eventsOf(page));
    if (page.next === null) this.connect(this.last?.cursor ?? page.cursor ?? after);
    else this.state = "apart";
  }

  private connect(after: string): void {
    if (this.isClosed) return;
    this.state = "live";
    const source = new EventSource(address(runPath(this.id, `/stream${this.query({ after })}`)));
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
      this.events = [];
      this.pending = [];
      this.earlierQuery = null;
      this.note = "The server had lost some of this run: it is shown anew.";
    });
    told("end", (facts) => {
      source.close();
      this.state = "ended";
      if (facts.status === "deleted") this.note = "The run was deleted.";
    });
    told("problem", (facts) => {
      if (facts.status !== NO_LIVE_END) return this.fail(String(facts.detail));
      source.close();
      this.state = "still";
    });
    source.onerror = () => {
      this.state = "away";
      // closed: all was given (204), or another status; a browser goes on by itself where nothing answered
      if (source.readyState === EventSource.CLOSED) this.timer = window.setTimeout(() => void this.again(after), AGAIN_MILLISECONDS);
      this.schedule();
    };
  }

  /** Go on after a stream that a browser does not open again by itself. */
  private async again(after: string): Promise<void> {
    if (this.isClosed || this.state !== "away") return;
    this.flush();
    try {
      const run = await this.wanted(get<Run>(runPath(this.id)));
      const page = await this.page(this.query({ after: this.last?.cursor ?? after, limit: PAGE }));
      this.append(eventsOf(page));
      if (ENDED.has(run.status) && page.next === null) this.state = "ended";
      else this.connect(this.last?.cursor ?? after);
    } catch (problem) {
      if (problem instanceof Unwanted) return;
      if (problem instanceof Problem && problem.status < 500) this.fail(problem.message);
      else this.timer = window.setTimeout(() => void this.again(after), AGAIN_MILLISECONDS);
    }
    this.schedule();
  }

  private fail(note: string): void {
    this.disconnect();
    this.state = "failed";
    this.note = note;
  }

  private disconnect(): void {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
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

  private flush(): void {
    const came = this.pending;
    this.pending = [];
    this.append(came);
  }

  private append(came: RunEvent[]): void {
    let last = this.last?.offset ?? 0;
    for (const event of came) {
      if (event.offset <= last) continue; // it is here: the stream began where a page had not yet ended
      last = event.offset;
      this.events.push(event);
    }
    const over = this.events.length - MOST;
    if (over <= 0) return;
    if (this.isFollowed) {
      this.events = this.events.slice(over + PAGE);
      this.earlierQuery = this.query({ before: this.events[0]!.offset, order: "desc", limit: PAGE });
    } else {
      this.stepApart(MOST);
    }
  }

  /** Let go of the newest: the reader looks at older ones. */
  private stepApart(most: number): void {
    this.disconnect();
    this.events = this.events.slice(0, most);
    this.state = "apart";
  }
}

class Unwanted extends Error {}

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
