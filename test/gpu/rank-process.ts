import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { fromWire, type WireError } from '../../src/errors.ts';
import type { RankCalls } from './fixtures/collective-rank.js';

const program = fileURLToPath(new URL('fixtures/collective-rank.js', import.meta.url));
const patience = 60_000;

type Answer = { readonly value: unknown } | { readonly error: WireError };

/** A process that holds a GPU and is a rank of collectives, and does what it is told. */
export class RankProcess {
  readonly rank: number;
  readonly #child: ChildProcess;
  readonly #exit: Promise<unknown[]>;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #calls = 0;

  /** On the device of that index. */
  constructor(rank: number, device: number, environment: Readonly<Record<string, string>> = {}) {
    this.rank = rank;
    this.#child = fork(program, [String(rank), String(device)], { env: { ...process.env, ...environment } });
    this.#exit = once(this.#child, 'exit');
    this.#child.on('message', ({ call, answer }: { call: number; answer: Answer }) => {
      this.#waiting.get(call)?.(answer);
      this.#waiting.delete(call);
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Calls a function of the process. Rejects with what it throws, and if the process ends. */
  async call<N extends keyof RankCalls>(
    name: N,
    ...values: Parameters<RankCalls[N]>
  ): Promise<Awaited<ReturnType<RankCalls[N]>>> {
    this.#calls += 1;
    const call = this.#calls;
    const answered = new Promise<Answer>((resolve) => this.#waiting.set(call, resolve));
    this.#child.send({ call, name, values }, () => {});
    const ended = this.#exit.then(([code, signal]) => {
      throw new Error(`rank ${this.rank} ended with ${code ?? signal} in ${name}`);
    });
    const late = new Promise<never>((_, reject) => {
      setTimeout(() => reject(new Error(`rank ${this.rank} is silent in ${name}`)), patience).unref();
    });
    const answer = await Promise.race([answered, ended, late]);
    if ('error' in answer) throw fromWire(answer.error);
    return answer.value as Awaited<ReturnType<RankCalls[N]>>;
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGKILL');
    await this.#exit;
  }

  /** Lets it end by itself. */
  async end(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    await this.#exit;
  }
}
