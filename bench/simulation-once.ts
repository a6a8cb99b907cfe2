/** One measurement for bench/simulation.ts, in its own process: `simulation-once.ts <ranks> <buckets>`. */
import { type Phase, updateAtScale } from '../simulation/scale.ts';

export interface ScaleMeasurement {
  /** Seconds. */
  readonly phases: Readonly<Record<Phase, number>>;
  readonly events: number;
  /** MiB. */
  readonly peakResident: number;
}

const [ranks, buckets] = process.argv.slice(2).map(Number);
const phases: Record<Phase, number> = { start: 0, register: 0, update: 0, stop: 0 };
let last = performance.now();
const { violations, events } = await updateAtScale(ranks!, buckets!, (phase) => {
  const now = performance.now();
  phases[phase] = (now - last) / 1_000;
  last = now;
});
if (violations.length > 0) throw new Error(violations.join('\n'));
const peakResident = process.resourceUsage().maxRSS / 1_024;
process.send!({ phases, events, peakResident } satisfies ScaleMeasurement);
