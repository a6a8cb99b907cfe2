import { fileURLToPath } from 'node:url';
import { type Ended, runToEnd } from '../program.ts';

const script = fileURLToPath(new URL('../../scenarios/simulate.js', import.meta.url));
const breaking = new URL('fixtures/broken-run.js', import.meta.url).href;

/**
 * Runs scenarios/simulate.ts in a process of its own. The test runner follows every promise of its process, which would
 * cost a simulation half as much again.
 */
export function simulate(...options: readonly (string | number)[]): Promise<Ended> {
  return runToEnd([process.execPath, script, ...options.map(String)]);
}

/** As {@link simulate}, but an invariant breaks in each run. */
export function simulateBroken(...options: readonly (string | number)[]): Promise<Ended> {
  return runToEnd([process.execPath, '--import', breaking, script, ...options.map(String)]);
}

/** The seeds that it names as those of runs that failed. */
export function failedSeeds(output: string): number[] {
  return [...output.matchAll(/^replay it: .* --seed (\d+)$/gm)].map(([, seed]) => Number(seed));
}
