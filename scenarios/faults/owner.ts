import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { fromWire, PeerLostError, type WireError } from '../../src/errors.ts';
import type { Cluster } from '../../src/index.ts';

type Methods = Pick<
  Cluster,
  | 'register'
  | 'unregister'
  | 'update'
  | 'addInstance'
  | 'removeInstance'
  | 'releaseSpareMemory'
  | 'status'
  | 'stop'
> & {
  start(options: Parameters<typeof Cluster.start>[0]): Promise<void>;
  /** Of the supervisor that it has now. */
  supervisorPid(): Promise<number>;
};

export interface OwnerCall {
  readonly id: number;
  readonly method: keyof Methods;
  readonly parameters: readonly unknown[];
}

export type OwnerAnswer =
  | { readonly id: number; readonly value?: unknown; readonly error?: WireError }
  /** `at`: as `Date.now` tells it. */
  | { readonly event: 'lost' | 'replaced'; readonly at: number };

interface Pending {
  readonly resolve: (value: never) => void;
  readonly reject: (error: Error) => void;
}

/** A cluster whose owner is a process of its own. Calls reject with `PeerLostError` when that has ended. */
export class Owner {
  readonly #process: ChildProcess;
  readonly #pending = new Map<number, Pending>();
  /** When its supervisors were lost, as `Date.now` tells it. */
  readonly lost: number[] = [];
  /** When others had taken their places. */
  readonly replaced: number[] = [];
  #calls = 0;
  #how: string | null = null;

  constructor(environment: NodeJS.ProcessEnv) {
    const isSource = import.meta.url.endsWith('.ts');
    const path = fileURLToPath(
      new URL(isSource ? './owner-process.ts' : './owner-process.js', import.meta.url),
    );
    // Of a group of its own: Ctrl-C in a terminal reaches this process alone, which then stops it in order.
    this.#process = fork(path, { env: environment, detached: true });
    this.#process.on('message', (message: OwnerAnswer) => this.#receive(message));
    this.#process.on('exit', (code, signal) => this.#end(signal ?? `exit code ${code}`));
    this.#process.on('error', (error) => this.#end(error.message));
  }

  get pid(): number {
    return this.#process.pid!;
  }

  get hasEnded(): boolean {
    return this.#how !== null;
  }

  call<M extends keyof Methods>(method: M, ...parameters: Parameters<Methods[M]>): ReturnType<Methods[M]> {
    const answer = new Promise((resolve, reject) => {
      if (this.#how !== null) return reject(this.#lostError());
      this.#calls += 1;
      this.#pending.set(this.#calls, { resolve, reject });
      this.#process.send({ id: this.#calls, method, parameters } satisfies OwnerCall, (error) => {
        if (error !== null) reject(this.#lostError());
      });
    });
    return answer as ReturnType<Methods[M]>;
  }

  /** Lets it go without stopping its cluster first. */
  async end(): Promise<void> {
    if (this.#how !== null) return;
    const ended = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await ended;
  }

  #receive(message: OwnerAnswer): void {
    if ('event' in message) {
      if (message.event === 'lost') this.lost.push(message.at);
      if (message.event === 'replaced') this.replaced.push(message.at);
      return;
    }
    const pending = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.error !== undefined) pending?.reject(fromWire(message.error));
    else pending?.resolve(message.value as never);
  }

  #end(how: string): void {
    this.#how = how;
    for (const { reject } of this.#pending.values()) reject(this.#lostError());
    this.#pending.clear();
  }

  #lostError(): PeerLostError {
    return new PeerLostError(`the owner has ended (${this.#how ?? 'it is ending'})`);
  }
}
