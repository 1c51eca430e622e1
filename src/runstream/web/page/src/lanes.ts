// A colour for each lane: the same wherever the lane is shown.

const COLOURS = 8; // as in style.css

export function laneColour(lane: string): string {
  let hash = 0;
  for (let at = 0; at < lane.length; at += 1) hash = (hash * 31 + lane.charCodeAt(at)) | 0;
  return `var(--lane-${Math.abs(hash) % COLOURS})`;
}
