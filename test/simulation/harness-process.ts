import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const script = fileURLToPath(new URL('../../scenarios/simulate.js', import.meta.url));

export interface Ended {
  readonly code: number | null;
  readonly output: string;
}

/**
 * Runs scenarios/simulate.ts in a process of its own. The test runner follows every promise of its process, which would
 * cost a simulation half as much again.
 */
export function simulate(...options: readonly (string | number)[]): Promise<Ended> {
  const child = spawn(process.execPath, [script, ...options.map(String)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, output }));
  });
}
