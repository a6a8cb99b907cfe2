import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const script = fileURLToPath(new URL('../../scenarios/simulate.js', import.meta.url));
const breaking = new URL('fixtures/broken-run.js', import.meta.url).href;

export interface Ended {
  readonly code: number | null;
  readonly output: string;
}

/**
 * Runs scenarios/simulate.ts in a process of its own. The test runner follows every promise of its process, which would
 * cost a simulation half as much again.
 */
export function simulate(...options: readonly (string | number)[]): Promise<Ended> {
  return run([script, ...options.map(String)]);
}

/** As {@link simulate}, but an invariant breaks in each run. */
export function simulateBroken(...options: readonly (string | number)[]): Promise<Ended> {
  return run(['--import', breaking, script, ...options.map(String)]);
}

/** The seeds that it names as those of runs that failed. */
export function failedSeeds(output: string): number[] {
  return [...output.matchAll(/^replay it: .* --seed (\d+)$/gm)].map(([, seed]) => Number(seed));
}

function run(words: readonly string[]): Promise<Ended> {
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, output }));
  });
}
