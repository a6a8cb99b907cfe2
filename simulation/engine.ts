import type {
  CallOptions,
  EngineClient,
  EngineUpdate,
  Prompt,
  RankAnswers,
} from '../src/engines/engine-client.ts';
import { protocolVersion } from '../src/engines/worker-link/messages.ts';
import { onlyProtocol, type WorkersSaid } from '../src/engines/workers-said.ts';
import { EngineError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import { identityOf, logprobsOf } from './answers.ts';
import { elapse } from './clock.ts';
import type { SimulatedDevice } from './device.ts';
import { polledReady, simulatedCall } from './engine-http.ts';
import type { Share } from './kept-parts.ts';
import type { Trace } from './trace.ts';
import { type Received, SimulatedWorker } from './worker.ts';
import type { SimulatedLinks } from './worker-link.ts';

/** How often an engine that is paused looks whether it still is. */
const queueMilliseconds = 50;

/** How the engine fails a call: with an error response, or without any response; a late pause takes effect all the same. */
export type CallFault = 'error' | 'silence';
export type PauseFault = CallFault | 'late';
/** Its workers do what they are asked, and nobody hears of it. */
export type UpdateFault = CallFault | 'unanswered';

export interface EngineOptions {
  readonly name: string;
  readonly devices: readonly SimulatedDevice[];
  readonly links: SimulatedLinks;
  readonly clock: Clock;
  readonly trace: Trace;
  readonly reports: boolean;
  /** Whether it must be paused while its weights change. */
  readonly pauses: boolean;
  /** Whether its workers divide the model among them, and say which parts they keep. */
  readonly keepsParts: boolean;
  /** Whether `loaded` has all that a worker of that share keeps of the version, with the right digests. */
  readonly isComplete: (version: string, loaded: ReadonlyMap<string, bigint>, share: Share | null) => boolean;
}

/** One simulated instance: an HTTP API and a worker on each of its devices. */
export class SimulatedEngine {
  readonly name: string;
  /** How the next update call, pause or resume fails. */
  nextCall: UpdateFault | null = null;
  nextPause: PauseFault | null = null;
  /** A pause was not answered: the supervisor may look after that. */
  mayPauseLate = false;
  /** From the request to a late pause. */
  latePauseMilliseconds = 7_000;
  nextResume: CallFault | null = null;
  /** How it fails the next questions about prompts. */
  nextAnswers: CallFault | null = null;
  /** It answers no questions about prompts, as to somebody with a wrong API key. */
  refusesQuestions = false;
  /** It never says whether it would. */
  ignoresQuestions = false;
  readonly #options: EngineOptions;
  #workers: SimulatedWorker[] = [];
  /** By device, what its worker received last. */
  readonly #received = new Map<string, Received>();
  #touchedAt = Number.NEGATIVE_INFINITY;
  #acknowledged: string | null = null;
  #up = true;
  /** It is well, and does not answer what it is asked of itself. */
  isMute = false;
  /** It has no route that says whether it is paused or asleep, as an SGLang. */
  hidesPauses = false;
  /** Its weights are not in memory: whoever loads into them ends it. */
  isSleeping = false;
  /** What its workers say of themselves beside what is so. */
  said: Partial<WorkersSaid> = {};
  #paused = false;
  /** Its processes were started, and nothing was loaded since. */
  #hasDummyWeights = true;
  /** What it was told that its weights are called. */
  #label: string | null = null;
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

  /** Whether a worker's model computes with other weights than it was given last. */
  get isMisloaded(): boolean {
    return [...this.#received.values()].some(({ misloaded }) => misloaded);
  }

  /** How probable it finds the tokens of each prompt, whether it is paused or not. */
  answersTo(prompts: readonly Prompt[]): number[][] {
    const identity = this.#hasDummyWeights ? 0n : identityOf([...this.#received.values()]);
    return prompts.map((prompt) => logprobsOf(prompt, identity));
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
    this.#label = null;
    this.#hasDummyWeights = true;
    this.isSleeping = false;
    this.nextCall = null;
    this.nextPause = null;
    this.nextResume = null;
    this.nextAnswers = null;
    this.#startWorkers();
  }

  client(clock: Clock): EngineClient {
    const call = <T>(options: CallOptions, work: () => Promise<T>) =>
      simulatedCall(this.name, this.#options.clock, clock, options, work);
    return {
      endpoint: this.name,
      ready: (options) => polledReady(this.name, () => this.#up, clock, options),
      state: async (options) => {
        if (this.isMute) await call(options, () => new Promise(() => {}));
        return { ...this.#said(), version: this.#label };
      },
      workers: async () => this.#workersSay(),
      worldSize: async () => null,
      survey: async () => {
        throw new EngineError('simulated engines are not asked what they hold');
      },
      pause: (_mode, options) => call(options, () => this.#pause()),
      resume: (options) => call(options, () => this.#resume()),
      update: (order, options) => call(options, () => this.#update(order)),
      resetCaches: (options) => call(options, async () => {}),
      label: (version, options) => call(options, async () => this.#tell(version)),
      answers: (prompts, options) => call(options, () => this.#answers(prompts)),
      close: async () => {},
    };
  }

  #workersSay(): WorkersSaid {
    const { said } = this;
    const held = this.#hasDummyWeights ? ('nothing' as const) : { version: this.#acknowledged };
    return { ...onlyProtocol(protocolVersion), held, ...said };
  }

  #startWorkers(): void {
    const { devices, links, clock, trace, reports } = this.#options;
    this.#workers = devices.map((device, rank) => {
      return new SimulatedWorker({
        device,
        share: this.#shareOf(rank),
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

  #shareOf(rank: number): Share | null {
    const { keepsParts, devices } = this.#options;
    return keepsParts && devices.length > 1 ? { part: rank, parts: devices.length } : null;
  }

  #touched(uuid: string, received: Received): void {
    if (this.#received.get(uuid) === received) return;
    this.#received.set(uuid, received);
    this.#hasDummyWeights = false;
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
    if (!all.every(({ loaded }, rank) => isComplete(version, loaded, this.#shareOf(rank)))) return;
    this.#acknowledged = version;
    this.#broken = false;
  }

  async #pause(): Promise<void> {
    const fault = this.nextPause;
    this.nextPause = null;
    this.mayPauseLate ||= fault !== null;
    if (fault === 'late') return this.#pauseLate();
    await this.#failIf(fault);
    this.#pausing = null;
    this.#paused = true;
    this.#options.trace.add(this.name, 'pauses');
  }

  #pauseLate(): Promise<never> {
    const workers = this.#workers;
    this.#pausing = workers;
    this.#options.clock.after(this.latePauseMilliseconds, () => {
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

  /** As a vLLM does, which says of both that it is asleep and paused. */
  #said() {
    if (this.hidesPauses) return { isPaused: null, isSleeping: null };
    const isStill = this.#paused || this.isSleeping;
    return { isPaused: isStill, isSleeping: isStill };
  }

  /** It is told only what is proved: that it holds this version. */
  #tell(version: string): string {
    const holds = this.#acknowledged ?? 'no version';
    if (holds !== version)
      this.#options.trace.violated(`${this.name} is told ${version}, and holds ${holds}`);
    this.#label = version;
    return version;
  }

  /** A paused engine only queues what it is asked. */
  async #answers(prompts: readonly Prompt[]): Promise<RankAnswers[]> {
    if (prompts.length === 0) {
      if (this.refusesQuestions) throw new EngineError('Unauthorized');
      if (this.ignoresQuestions) await this.#failIf('silence');
      return [{ dataParallelRank: null, logprobs: [] }];
    }
    const fault = this.nextAnswers;
    this.nextAnswers = null;
    await this.#failIf(fault);
    while (this.#paused) {
      await elapse(this.#options.clock, queueMilliseconds);
      await this.#failIf(null);
    }
    return [{ dataParallelRank: null, logprobs: this.answersTo(prompts) }];
  }

  /** Throws or never resolves, as the fault says; throws too while the engine is down. */
  #failIf(fault: CallFault | null): Promise<void> {
    if (fault === 'error') throw new EngineError('there is no such method');
    if (!this.#up) throw new EngineError('connection refused');
    return fault === 'silence' ? new Promise(() => {}) : Promise.resolve();
  }

  async #update({ links }: EngineUpdate): Promise<void> {
    const fault = this.nextCall;
    this.nextCall = null;
    this.#options.trace.add(this.name, `receives an update call${fault === null ? '' : `, fault: ${fault}`}`);
    await this.#failIf(fault === 'unanswered' ? null : fault);
    // As in vLLM's executor, the first failure is the response, whatever the other workers still do.
    await Promise.all(
      this.#workers.map((worker) => {
        if (worker.isMissing) return null;
        const address = links[worker.options.device.uuid];
        if (address === undefined) throw new EngineError(`no link for ${worker.options.device.uuid}`);
        return worker.update(address);
      }),
    );
    if (fault === 'unanswered') await this.#failIf('silence');
  }
}
