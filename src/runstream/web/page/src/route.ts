// Where the page is: the part of its address after "#", so that the server serves one file, wherever it is mounted.

import { useEffect, useState } from "preact/hooks";

export interface Route {
  /** The run's name in paths; null: the list of runs. */
  id: string | null;
  query: URLSearchParams;
}

function parseRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [first, ...rest] = path.split("/");
  return { id: first === "runs" ? rest.join("/") || null : null, query: new URLSearchParams(query) };
}

/** The link to a place of the page; what is empty is left out. */
export function link(id: string | null, query: Record<string, string | number | null> = {}): string {
  const kept = Object.entries(query).filter(([, value]) => value !== null && value !== "");
  const text = new URLSearchParams(kept.map(([name, value]) => [name, String(value)])).toString();
  return `#/${id === null ? "" : `runs/${id}`}${text ? `?${text}` : ""}`;
}

/** Go elsewhere; with `replace` the way back does not lead here. */
export function go(to: string, replace = false): void {
  if (replace) {
    history.replaceState(null, "", to);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = to;
  }
}

/** Change some of the query of where the page is. */
export function goWith(route: Route, changes: Record<string, string | number | null>, replace = true): void {
  go(link(route.id, { ...Object.fromEntries(route.query), ...changes }), replace);
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parseRoute(location.hash));
  useEffect(() => {
    const changed = () => setRoute(parseRoute(location.hash));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}
