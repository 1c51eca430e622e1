// What differs between two values, by path.

import type { Json } from "./api";

export interface Change {
  path: string;
  /** undefined: it is not there. */
  before: Json | undefined;
  after: Json | undefined;
}

function isBranch(value: Json | undefined): value is { [name: string]: Json } | Json[] {
  return typeof value === "object" && value !== null;
}

/** The changes from one value to another: of lists by index, of objects by name. */
export function changes(before: Json | undefined, after: Json | undefined, path = ""): Change[] {
  if (isBranch(before) && isBranch(after) && Array.isArray(before) === Array.isArray(after)) {
    const [one, other] = [before as { [name: string]: Json }, after as { [name: string]: Json }];
    const names = new Set([...Object.keys(one), ...Object.keys(other)]);
    return [...names].flatMap((name) =>
      changes(Object.hasOwn(one, name) ? one[name] : undefined, Object.hasOwn(other, name) ? other[name] : undefined, path ? `${path}.${name}` : name),
    );
  }
  return before === after ? [] : [{ path, before, after }];
}
