import type { CallOptions, EngineClient, EngineUpdate } from '../src/engines/engine-client.ts';
import { AbortedError, DeadlineError, describe, EngineError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import type { SimulatedDevice } from './device.ts';
import type { Trace } from './trace.ts';
import { type Received, SimulatedWorker } from './worker.ts';
import type { SimulatedLinks } from './worker-link.ts';

/** One HTTP request or answer. */
const httpMilliseconds = 2;
/** Between two questions whether the engine is ready. */
const pollMilliseconds = 200;

/** What the engine does wrong with the next update it is asked for. */
export type CallFault = 'error' | 'silence';

export interface EngineOptions {
  readonly name: string;
  readonly devices: readonly SimulatedDevice[];
  readonly links: SimulatedLinks;
  readonly clock: Clock;
  readonly trace: Trace;
  readonly reports: boolean;
  /** Whether it is to be paused while its weights change. */
  readonly pauses: boolean;
  /** Whether these are all tensors of that version, with the right bytes. */
  readonly isWhole: (version: string, loaded: ReadonlyMap<string, bigint>) => boolean;
}

/** One simulated instance: an HTTP face and a worker on each of its devices. */
export class SimulatedEngine {
  readonly name: string;
  nextCall: CallFault | null = null;
  nextPause: CallFault | null = null;
  nextResume: CallFault | null = null;
  readonly #options: EngineOptions;
  #workers: SimulatedWorker[] = [];
  /** What each worker got last, by device. */
  readonly #received = new Map<string, Received>();
  #acknowledged: string | null = null;
  #up = true;
  #paused = false;
  /** Its workers were given part of a version, in the life of these processes. */
  #mixed = false;

  constructor(options: EngineOptions) {
    this.name = options.name;
    this.#options = options;
    this.#startWorkers();
  }

  get workers(): readonly SimulatedWorker[] {
    return this.#workers;
  }

  get isPaused(): boolean {
    return this.#paused;
  }

  get isUp(): boolean {
    return this.#up;
  }

  /**
   * The version whose every bucket every worker acknowledged in one epoch, rightly, and nothing has touched since:
   * the truth that the ledger of the cluster is measured by. Outlives the engine's processes, as the ledger does.
   */
  get acknowledged(): string | null {
    return this.#acknowledged;
  }

  /** Whether a worker was given something in that epoch, and nothing since. */
  wasUpdatedIn(epoch: number): boolean {
    return [...this.#received.values()].some((received) => received.epoch === epoch);
  }

  /** Its workers were given part of a version, and not all of it since. */
  get isMixed(): boolean {
    return this.#mixed;
  }

  get deviceCount(): number {
    return this.#options.devices.length;
  }

  /** A worker did not keep what it got last. */
  get isSpoiled(): boolean {
    return [...this.#received.values()].some(({ spoiled }) => spoiled);
  }

  /** All its processes die. */
  kill(): void {
    this.#up = false;
    for (const worker of this.#workers) worker.die();
  }

  /** New processes; what they hold is no version. */
  restart(): void {
    this.kill();
    this.#options.trace.add(this.name, 'starts again');
    this.#up = true;
    this.#paused = false;
    this.#mixed = false;
    this.nextCall = null;
    this.nextPause = null;
    this.nextResume = null;
    this.#startWorkers();
  }

  client(clock: Clock): EngineClient {
    return {
      endpoint: this.name,
      ready: (options) => this.#ready(clock, options),
      pause: (_mode, options) => this.#call(clock, options, () => this.#pause()),
      resume: (options) => this.#call(clock, options, () => this.#resume()),
      update: (order, options) => this.#call(clock, options, () => this.#update(order)),
      close: async () => {},
    };
  }

  #startWorkers(): void {
    const { devices, links, clock, trace, reports } = this.#options;
    this.#workers = devices.map((device) => {
      return new SimulatedWorker({
        device,
        links,
        clock,
        trace,
        reports,
        onTouched: (received) => this.#touched(device.uuid, received),
        onFinished: (received) => this.#finished(received),
        // An engine does not live on without one of its workers.
        onDeath: () => this.kill(),
      });
    });
  }

  #touched(uuid: string, received: Received): void {
    if (this.#received.get(uuid) === received) return;
    this.#received.set(uuid, received);
    this.#acknowledged = null;
    this.#mixed = true;
    const { pauses, trace } = this.#options;
    if (pauses && !this.#paused) trace.violated(`the weights of ${this.name} changed while it was serving`);
  }

  /** A worker that nobody waits for any more may finish late, when others are in another epoch. */
  #finished({ epoch, version }: Received): void {
    const { devices, isWhole } = this.#options;
    const all = devices.flatMap(({ uuid }) => this.#received.get(uuid) ?? []);
    if (all.length < devices.length) return;
    if (!all.every((received) => received.epoch === epoch && received.finished)) return;
    if (!all.every(({ loaded }) => isWhole(version, loaded))) return;
    this.#acknowledged = version;
    this.#mixed = false;
  }

  async #pause(): Promise<void> {
    const fault = this.nextPause;
    this.nextPause = null;
    await this.#obey(fault);
    this.#paused = true;
    this.#options.trace.add(this.name, 'is paused');
  }

  async #resume(): Promise<void> {
    const fault = this.nextResume;
    this.nextResume = null;
    await this.#obey(fault);
    this.#paused = false;
    this.#options.trace.add(this.name, 'goes on');
    if (this.#mixed) this.#options.trace.violated(`${this.name} goes on with parts of different versions`);
  }

  /** Throws, or never resolves, if the call is not to succeed. */
  #obey(fault: CallFault | null): Promise<void> {
    if (fault === 'error') throw new EngineError('there is no such method');
    if (!this.#up) throw new EngineError('connection refused');
    return fault === 'silence' ? new Promise(() => {}) : Promise.resolve();
  }

  async #ready(clock: Clock, { timeoutMilliseconds, signal }: CallOptions): Promise<void> {
    const deadline = clock.now() + timeoutMilliseconds;
    for (;;) {
      await pause(clock, httpMilliseconds, signal);
      if (this.#up) return;
      if (clock.now() >= deadline) {
        throw new DeadlineError(`engine ${this.name} is not ready after ${timeoutMilliseconds} ms`);
      }
      await pause(clock, pollMilliseconds, signal);
    }
  }

  /** An answer within the time that the caller gives it; what the engine does goes on without the caller. */
  #call(
    clock: Clock,
    { timeoutMilliseconds, signal }: CallOptions,
    call: () => Promise<void>,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null) => {
        cancel();
        signal.removeEventListener('abort', onAbort);
        if (error === null) resolve();
        else reject(error);
      };
      const onAbort = () => settle(new AbortedError(`the call to engine ${this.name} was aborted`));
      const cancel = clock.after(timeoutMilliseconds, () =>
        settle(new DeadlineError(`engine ${this.name} did not answer within ${timeoutMilliseconds} ms`)),
      );
      if (signal.aborted) return onAbort();
      signal.addEventListener('abort', onAbort, { once: true });
      const later = (then: () => void) => this.#options.clock.after(httpMilliseconds, then);
      later(() =>
        call().then(
          () => later(() => settle(null)),
          (error) =>
            later(() => settle(new EngineError(`engine ${this.name} answered 500: ${describe(error)}`))),
        ),
      );
    });
  }

  async #update({ links }: EngineUpdate): Promise<void> {
    const fault = this.nextCall;
    this.nextCall = null;
    this.#options.trace.add(
      this.name,
      `is asked to update${fault === null ? '' : `, answers with ${fault}`}`,
    );
    await this.#obey(fault);
    // As vLLM's executor: the first failure is the answer, whatever the other workers still do.
    await Promise.all(
      this.#workers.map((worker) => {
        const address = links[worker.options.device.uuid];
        if (address === undefined) throw new EngineError(`no link for ${worker.options.device.uuid}`);
        return worker.update(address);
      }),
    );
  }
}

function pause(clock: Clock, milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (aborted: boolean) => {
      cancel();
      signal.removeEventListener('abort', onAbort);
      if (aborted) reject(new AbortedError('the call was aborted'));
      else resolve();
    };
    const onAbort = () => settle(true);
    const cancel = clock.after(milliseconds, () => settle(false));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}
