import { setTimeout } from 'node:timers/promises';
import { patience } from './patience.ts';

/** Between two looks. */
const pauseMilliseconds = 10;

/** Resolves when `holds` returns true. Rejects after the deadline, naming `what`. */
export async function eventually(
  what: string,
  holds: () => boolean | Promise<boolean>,
  milliseconds = patience,
): Promise<void> {
  const deadline = performance.now() + milliseconds;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not within ${milliseconds} ms: ${what}`);
    await setTimeout(pauseMilliseconds);
  }
}
