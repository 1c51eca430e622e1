// A document that is asked for again and again, while somebody looks.

import { useEffect, useRef, useState } from "preact/hooks";
import { AGAIN, get, isPassing } from "./api";

export interface Polled<T> {
  value: T | null;
  /** Why the last time gave nothing; the value is an older one then. */
  problem: Error | null;
}

/** How many milliseconds after an answer the next is asked for, by it and the one before. */
export type Pace<T> = (now: T | null, before: T | null) => number;

/** Ask for a path now, and again after so many milliseconds (null: until it answers); null as a path asks for nothing. */
export function usePolled<T>(path: string | null, every: number | Pace<T> | null): Polled<T> {
  const [polled, setPolled] = useState<Polled<T>>({ value: null, problem: null });
  const shown = useRef<string | null>(null);
  useEffect(() => {
    if (path === null) return undefined;
    const asking = new AbortController();
    let timer = 0;
    let last: T | null = null;
    let failed: Error | null = null;
    const ask = async () => {
      let found: Partial<Polled<T>> | null = null;
      try {
        if (!document.hidden || shown.current !== path) found = { value: await get<T>(path, asking.signal), problem: null };
      } catch (problem) {
        found = { problem: problem as Error };
      }
      if (asking.signal.aborted) return;
      if (found) setPolled((before) => ({ ...before, ...found }));
      shown.current = path;
      const before = last;
      last = found?.value ?? before;
      if (found) failed = found.problem ?? null;
      const pause = typeof every === "function" ? every(last, before) : (every ?? (failed && isPassing(failed) ? AGAIN : null));
      if (pause !== null) timer = window.setTimeout(() => void ask(), pause);
    };
    void ask();
    return () => {
      asking.abort();
      clearTimeout(timer);
    };
  }, [path, every]);
  return polled;
}

/** Load after so many milliseconds, and again while what fails may pass; gives what stops it. */
export function loadPatiently<T>(load: (signal: AbortSignal) => Promise<T>, pause: number, told: (found: Polled<T>) => void): () => void {
  const asking = new AbortController();
  const ask = async () => {
    try {
      const value = await load(asking.signal);
      if (!asking.signal.aborted) told({ value, problem: null });
    } catch (problem) {
      if (asking.signal.aborted) return;
      told({ value: null, problem: problem as Error });
      if (isPassing(problem as Error)) timer = window.setTimeout(() => void ask(), AGAIN);
    }
  };
  let timer = window.setTimeout(() => void ask(), pause);
  return () => {
    clearTimeout(timer);
    asking.abort();
  };
}
