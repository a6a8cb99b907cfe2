import { setMaxListeners } from 'node:events';
import { fromWire, PeerLostError } from '../errors.ts';
import { supervisorReport } from '../processes/configuration.ts';
import type { LeftEngines } from './left-engines.ts';

/** What becomes of the supervisor's process, as it says itself and as its parent sees. */
export class SupervisorFate {
  readonly #lost = new AbortController();
  readonly #engines: LeftEngines;
  #killed: readonly string[] = [];
  #settled: Promise<void> | null = null;

  constructor(engines: LeftEngines) {
    this.#engines = engines;
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
    switch (parsed.data.kind) {
      case 'failed':
        return this.#lost.abort(fromWire(parsed.data.error));
      case 'instance':
        return this.#engines.note(parsed.data.instance);
      case 'stopped':
        this.#killed = parsed.data.killed;
    }
  }

  /** `how`: `exit code 0`, `SIGKILL`. Engines that it has left paused are resumed first, as far as they are whole. */
  ended(how: string): void {
    this.#settled ??= this.#settle(how);
  }

  async #settle(how: string): Promise<void> {
    const engines = await this.#engines.settle();
    const consequence = 'its ranks end, and the checkpoints that were registered are gone from host memory';
    const whatToDo = 'stop this cluster, start a new one and register them again';
    const words = [consequence, ...engines, whatToDo].join('; ');
    this.#lost.abort(new PeerLostError(`the supervisor process ended (${how}): ${words}`));
  }

  /** Resolves when the process has ended, and what it has left is put right. */
  async settled(): Promise<void> {
    await this.#settled;
  }

  /** Resolves when it is known why the process is lost, at the latest after that time if it has not ended by then. */
  async reason(milliseconds: number): Promise<void> {
    await this.#known(milliseconds);
    await this.#settled;
  }

  async #known(milliseconds: number): Promise<void> {
    if (this.lost.aborted || this.#settled !== null) return;
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
