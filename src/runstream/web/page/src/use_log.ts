// The log of a run as components see it.

import { useEffect, useMemo, useState } from "preact/hooks";
import { EventLog, type Filter } from "./event_log";

/** A log of a run's events by a filter, opened at an offset or at the end; made anew where run or filter change. */
export function useLog(id: string, filter: Filter, at: number | null): EventLog {
  const [, setVersion] = useState(0);
  const log = useMemo(
    () => new EventLog(id, filter, at === null, () => setVersion((version) => version + 1)),
    [id, filter.lane, filter.kinds.join("\n")],
  );
  useEffect(() => {
    void log.open(at);
    return () => log.close();
  }, [log]);
  return log;
}
