// A colour for each lane: the same wherever the lane is shown.

const COLOURS = 8; // as in style.css

export function laneColour(lane: string): string {
  let hash = 0x811c9dc5; // FNV-1a
  for (let at = 0; at < lane.length; at += 1) hash = Math.imul(hash ^ lane.charCodeAt(at), 0x01000193) >>> 0;
  return `var(--lane-${(hash >>> 8) % COLOURS})`;
}
