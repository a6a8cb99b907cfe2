import type { TurnCount } from '../src/actors/kernel/index.ts';

/** The turns due in all actor systems of this process; every simulated system is created with this counter. */
export const turns: TurnCount = { due: 0 };

/**
 * Waits until everything has run that can run without time passing.
 *
 * Actors run in turns, which are counted from when they are scheduled until they begin, and in the microtasks that
 * follow. No microtasks are left when the loop below comes round. So with no turn due, all unfinished work waits for a
 * timer of the simulated clock. This holds only while simulated ports use nothing of the event loop but that clock: no
 * sockets, no files, no Node timers.
 */
export async function settle(): Promise<void> {
  do await new Promise((resolve) => setImmediate(resolve));
  while (turns.due > 0);
}
