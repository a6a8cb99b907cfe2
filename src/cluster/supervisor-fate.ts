import { setMaxListeners } from 'node:events';
import { fromWire, PeerLostError } from '../errors.ts';
import { supervisorReport } from '../processes/configuration.ts';

/** What becomes of the supervisor's process, as it says itself and as its parent sees. */
export class SupervisorFate {
  readonly #lost = new AbortController();
  #killed: readonly string[] = [];

  constructor() {
    // Every open question listens to it, and Node warns from the eleventh listener on.
    setMaxListeners(0, this.lost);
  }

  /** Aborted, with the reason, when the process has failed or ended. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** The rank processes that it had to kill at its end. */
  get killed(): readonly string[] {
    return this.#killed;
  }

  /** A message from the process. Others than ours, such as those of node itself, say nothing about it. */
  heard(message: unknown): void {
    const parsed = supervisorReport.safeParse(message);
    if (!parsed.success) return;
    if (parsed.data.kind === 'failed') this.#lost.abort(fromWire(parsed.data.error));
    else this.#killed = parsed.data.killed;
  }

  /** `how`: `exit code 0`, `SIGKILL`. */
  ended(how: string): void {
    const consequence = 'its ranks end, and the checkpoints that were registered are gone from host memory';
    const whatToDo = 'stop this cluster, start a new one and register them again';
    this.#lost.abort(new PeerLostError(`the supervisor process ended (${how}): ${consequence}; ${whatToDo}`));
  }

  /** Resolves when it is known why the process is lost, at the latest after that time. */
  async reason(milliseconds: number): Promise<void> {
    if (this.lost.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      const known = () => {
        clearTimeout(timer);
        resolve();
      };
      this.lost.addEventListener('abort', known, { once: true });
    });
  }
}
