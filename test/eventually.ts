import { setTimeout } from 'node:timers/promises';
import { patience } from './patience.ts';

/** Between two looks. */
const pauseMilliseconds = 10;

/** Resolves when `holds` returns true. Rejects after the deadline, naming `what`. */
export async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patience;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not within ${patience} ms: ${what}`);
    await setTimeout(pauseMilliseconds);
  }
}
