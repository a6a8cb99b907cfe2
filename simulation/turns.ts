import type { TurnCount } from '../src/actors/kernel/index.ts';

/** The turns due in all systems of this process: every simulated system is made with this count. */
export const turns: TurnCount = { due: 0 };

/**
 * Waits until all that can run without time passing has run.
 *
 * Actors run in turns that are counted when they are given and when they begin, and in the microtasks that follow; when
 * the loop below comes round there are no microtasks left. So with no turn due, whatever is still unfinished waits for
 * a timer of the simulated clock. This holds as long as simulated ports use that clock and nothing else of the event
 * loop: no sockets, no files, no timers of Node.
 */
export async function settle(): Promise<void> {
  do await new Promise((resolve) => setImmediate(resolve));
  while (turns.due > 0);
}
