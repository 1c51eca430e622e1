// A document that is asked for again and again, while somebody looks.

import { useEffect, useRef, useState } from "preact/hooks";
import { get } from "./api";

export interface Polled<T> {
  value: T | null;
  /** Why the last time gave nothing; the value is an older one then. */
  problem: Error | null;
}

/** How many milliseconds after an answer the next is asked for, by it and the one before. */
export type Pace<T> = (now: T | null, before: T | null) => number;

/** Ask for a path now, and again after so many milliseconds (null: only once); null as a path asks for nothing. */
export function usePolled<T>(path: string | null, every: number | Pace<T> | null): Polled<T> {
  const [polled, setPolled] = useState<Polled<T>>({ value: null, problem: null });
  const shown = useRef<string | null>(null);
  useEffect(() => {
    if (path === null) return undefined;
    const asking = new AbortController();
    let timer = 0;
    let last: T | null = null;
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
      const pause = typeof every === "function" ? every(last, before) : every;
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
