import { setMaxListeners } from 'node:events';
import { fromWire, PeerLostError, type WeightcastError } from '../errors.ts';
import { supervisorReport } from '../processes/configuration.ts';
import type { LaunchedAgents } from './launched-agents.ts';
import type { LeftEngines } from './left-engines.ts';

/** What becomes of a cluster's supervisor. */
export type SupervisorEvent =
  | { readonly state: 'lost'; readonly reason: WeightcastError }
  | { readonly state: 'replaced' };

/** What becomes of one supervisor's process, as it says itself and as its parent sees. */
export class SupervisorFate {
  readonly #lost = new AbortController();
  readonly #engines: LeftEngines;
  readonly #agents: LaunchedAgents;
  #killed: readonly string[] = [];
  #remoteEndpoint: string | null = null;
  #failure: WeightcastError | null = null;
  readonly #waiting: (() => void)[] = [];

  constructor(engines: LeftEngines, agents: LaunchedAgents) {
    this.#engines = engines;
    this.#agents = agents;
    // Every open question listens to it, and Node warns from the eleventh listener on.
    setMaxListeners(0, this.lost);
  }

  /** Aborted, with a reason that says to try again, when the process has failed or ended. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Why it has ended, in its own words; null if it has said nothing. */
  get failure(): WeightcastError | null {
    return this.#failure;
  }

  /** The rank processes that it had to kill at its end. */
  get killed(): readonly string[] {
    return this.#killed;
  }

  /** Where it listens for ranks of other hosts; null if nowhere. */
  get remoteEndpoint(): string | null {
    return this.#remoteEndpoint;
  }

  /** Resolves with where it listens for processes of other hosts. Rejects when it is lost before it does. */
  listening(): Promise<string> {
    return new Promise((resolve, reject) => {
      const check = () => {
        if (this.#remoteEndpoint !== null) resolve(this.#remoteEndpoint);
        else if (this.lost.aborted) reject(this.lost.reason);
      };
      this.#waiting.push(check);
      this.lost.addEventListener('abort', check, { once: true });
      check();
    });
  }

  /** A message from the process. Others than ours, such as those of node itself, say nothing about it. */
  heard(message: unknown): void {
    const { data } = supervisorReport.safeParse(message);
    if (data?.kind === 'listening') {
      this.#remoteEndpoint = data.remoteEndpoint;
      for (const check of this.#waiting) check();
    }
    if (data?.kind === 'agent') this.#agents.need(data.host, data.endpoint, data.isLost);
    if (data?.kind === 'instance') this.#engines.note(data.instance, data.mayStillPause);
    if (data?.kind === 'stopped') this.#killed = data.killed;
    if (data?.kind !== 'failed') return;
    this.#failure = fromWire(data.error);
    this.#lose(`the supervisor has failed (${this.#failure.message})`);
  }

  /** `how`: `exit code 0`, `SIGKILL`. */
  ended(how: string): void {
    this.#lose(`the supervisor process ended (${how})`);
  }

  #lose(what: string): void {
    this.#lost.abort(new PeerLostError(`${what}; another one takes its place: try again`));
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
