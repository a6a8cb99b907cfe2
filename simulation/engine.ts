import type { CallOptions, EngineClient, EngineUpdate, Readiness } from '../src/engines/engine-client.ts';
import { AbortedError, DeadlineError, describe, EngineError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import type { SimulatedDevice } from './device.ts';
import type { Trace } from './trace.ts';
import { type Received, SimulatedWorker } from './worker.ts';
import type { SimulatedLinks } from './worker-link.ts';

/** Time that one HTTP request or response takes. */
const httpMilliseconds = 2;
/** Interval of health checks while the engine is down. */
const pollMilliseconds = 200;
/** From the request to a late pause. */
const lateMilliseconds = 7_000;

/** How the engine fails a call: with an error response, or without any response; a late pause takes effect all the same. */
export type CallFault = 'error' | 'silence';
export type PauseFault = CallFault | 'late';

export interface EngineOptions {
  readonly name: string;
  readonly devices: readonly SimulatedDevice[];
  readonly links: SimulatedLinks;
  readonly clock: Clock;
  readonly trace: Trace;
  readonly reports: boolean;
  /** Whether it must be paused while its weights change. */
  readonly pauses: boolean;
  /** Whether `loaded` has all tensors of the version, with the right digests. */
  readonly isComplete: (version: string, loaded: ReadonlyMap<string, bigint>) => boolean;
}

/** One simulated instance: an HTTP API and a worker on each of its devices. */
export class SimulatedEngine {
  readonly name: string;
  /** How the next update call, pause or resume fails. */
  nextCall: CallFault | null = null;
  nextPause: PauseFault | null = null;
  nextResume: CallFault | null = null;
  readonly #options: EngineOptions;
  #workers: SimulatedWorker[] = [];
  /** By device, what its worker received last. */
  readonly #received = new Map<string, Received>();
  #touchedAt = Number.NEGATIVE_INFINITY;
  #acknowledged: string | null = null;
  #up = true;
  /** Its weights are not in memory: whoever loads into them ends it. */
  isSleeping = false;
  #paused = false;
  /** The workers of the processes that a late pause will pause. */
  #pausing: readonly SimulatedWorker[] | null = null;
  /** As {@link isBroken}; reset when the processes are restarted. */
  #broken = false;

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

  /** A late pause has not taken effect yet. */
  get isPausing(): boolean {
    return this.#up && this.#pausing === this.#workers;
  }

  /** Someone pauses or resumes it who is not the cluster. */
  setPaused(isPaused: boolean): void {
    this.#paused = isPaused;
  }

  get isUp(): boolean {
    return this.#up;
  }

  /**
   * The version of which every worker acknowledged every bucket in one epoch, with the right bytes, and which nothing has
   * touched since. Reports of the cluster are checked against it. Like the cluster's ledger, it outlives the engine's
   * processes.
   */
  get acknowledged(): string | null {
    return this.#acknowledged;
  }

  /** When a worker last began to receive; before all times if none has. */
  get touchedAt(): number {
    return this.#touchedAt;
  }

  /** Whether its workers received part of a version and never the rest of it. */
  get isBroken(): boolean {
    return this.#broken;
  }

  get deviceCount(): number {
    return this.#options.devices.length;
  }

  /** Whether a worker corrupted what it received last. */
  get isCorrupt(): boolean {
    return [...this.#received.values()].some(({ corrupted }) => corrupted);
  }

  /** Kills all its processes. */
  kill(): void {
    this.#up = false;
    for (const worker of this.#workers) worker.die();
  }

  /** Starts new processes, with weights of no version. */
  restart(): void {
    this.kill();
    this.#options.trace.add(this.name, 'restarts');
    this.#up = true;
    this.#paused = false;
    this.#broken = false;
    this.isSleeping = false;
    this.nextCall = null;
    this.nextPause = null;
    this.nextResume = null;
    this.#startWorkers();
  }

  client(clock: Clock): EngineClient {
    return {
      endpoint: this.name,
      ready: (options) => this.#ready(clock, options),
      state: async () => ({ isPaused: this.#paused, isSleeping: this.isSleeping, version: null }),
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
        // An engine dies with any of its workers.
        onDeath: () => this.kill(),
      });
    });
  }

  #touched(uuid: string, received: Received): void {
    if (this.#received.get(uuid) === received) return;
    this.#received.set(uuid, received);
    this.#touchedAt = this.#options.clock.now();
    this.#acknowledged = null;
    this.#broken = true;
    const { pauses, trace } = this.#options;
    if (this.isSleeping) trace.violated(`the weights of ${this.name} changed while it was asleep`);
    if (pauses && !this.#paused) trace.violated(`the weights of ${this.name} changed while it was serving`);
  }

  /** A worker of an abandoned update may finish late, when the others are in another epoch. */
  #finished({ epoch, version }: Received): void {
    const { devices, isComplete } = this.#options;
    const all = devices.flatMap(({ uuid }) => this.#received.get(uuid) ?? []);
    if (all.length < devices.length) return;
    if (!all.every((received) => received.epoch === epoch && received.finished)) return;
    if (!all.every(({ loaded }) => isComplete(version, loaded))) return;
    this.#acknowledged = version;
    this.#broken = false;
  }

  async #pause(): Promise<void> {
    const fault = this.nextPause;
    this.nextPause = null;
    if (fault === 'late') return this.#pauseLate();
    await this.#failIf(fault);
    this.#pausing = null;
    this.#paused = true;
    this.#options.trace.add(this.name, 'pauses');
  }

  #pauseLate(): Promise<never> {
    const workers = this.#workers;
    this.#pausing = workers;
    this.#options.clock.after(lateMilliseconds, () => {
      if (this.#pausing !== workers) return;
      this.#pausing = null;
      if (!this.#up || this.#workers !== workers) return;
      this.#paused = true;
      this.#options.trace.add(this.name, 'pauses late');
    });
    return new Promise(() => {});
  }

  async #resume(): Promise<void> {
    const fault = this.nextResume;
    this.nextResume = null;
    await this.#failIf(fault);
    this.#paused = false;
    this.#options.trace.add(this.name, 'resumes');
    if (this.#broken) this.#options.trace.violated(`${this.name} resumes although it is broken`);
  }

  /** Throws or never resolves, as the fault says; throws too while the engine is down. */
  #failIf(fault: CallFault | null): Promise<void> {
    if (fault === 'error') throw new EngineError('there is no such method');
    if (!this.#up) throw new EngineError('connection refused');
    return fault === 'silence' ? new Promise(() => {}) : Promise.resolve();
  }

  async #ready(clock: Clock, { timeoutMilliseconds, signal }: CallOptions): Promise<Readiness> {
    let wasDown = false;
    const deadline = clock.now() + timeoutMilliseconds;
    for (;;) {
      await sleep(clock, httpMilliseconds, signal);
      if (this.#up) return { wasDown };
      wasDown = true;
      if (clock.now() >= deadline) {
        throw new DeadlineError(`engine ${this.name} is not ready after ${timeoutMilliseconds} ms`);
      }
      await sleep(clock, pollMilliseconds, signal);
    }
  }

  /** Resolves within the caller's timeout. If the caller gives up, the engine continues what it does. */
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
      const afterHop = (then: () => void) => this.#options.clock.after(httpMilliseconds, then);
      afterHop(() =>
        call().then(
          () => afterHop(() => settle(null)),
          (error) =>
            afterHop(() => settle(new EngineError(`engine ${this.name} answered 500: ${describe(error)}`))),
        ),
      );
    });
  }

  async #update({ links }: EngineUpdate): Promise<void> {
    const fault = this.nextCall;
    this.nextCall = null;
    this.#options.trace.add(this.name, `receives an update call${fault === null ? '' : `, fault: ${fault}`}`);
    await this.#failIf(fault);
    // As in vLLM's executor, the first failure is the response, whatever the other workers still do.
    await Promise.all(
      this.#workers.map((worker) => {
        const address = links[worker.options.device.uuid];
        if (address === undefined) throw new EngineError(`no link for ${worker.options.device.uuid}`);
        return worker.update(address);
      }),
    );
  }
}

function sleep(clock: Clock, milliseconds: number, signal: AbortSignal): Promise<void> {
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
