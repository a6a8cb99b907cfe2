import { bytesOf, DTYPES, dtypeIndex } from '../src/checkpoint/dtype.ts';
import type { ArrivedDigests, LinkTensor } from '../src/engines/worker-link/worker-link.ts';
import { AbortedError, DeadlineError, PeerLostError, WorkerLinkError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import { digestOf, samePieces } from './contents.ts';
import { elapse, type SimulatedBuffer, type SimulatedDevice } from './device.ts';
import type { Trace } from './trace.ts';
import type { LinkPeer, LinkRequest, SimulatedLink, SimulatedLinks } from './worker-link.ts';

/** Bytes a millisecond that a worker copies out of the link buffer. */
const reloadRate = 1e9;
/** What every bucket takes, however small. */
const loadMilliseconds = 0.3;
/** What it takes at most: a rank that aborts waits a second for its worker, and frees the buffer then (worker-link.ts). */
const longestLoadMilliseconds = 900;
const postHookMilliseconds = 5;
const connectMilliseconds = 0.2;
/** How long it looks for a rank, and how long the rank may be silent. */
const lookMilliseconds = 2_000;
const silenceMilliseconds = 120_000;

/** What a worker does wrong with its next bucket. */
export type LoadFault = 'refuse' | 'hang' | 'die' | 'corrupt';

/** What a worker got in one exchange. */
export interface Received {
  readonly epoch: number;
  /** `checkpoint@digest`, as the rank called it. */
  readonly version: string;
  /** Tensors that were copied and acknowledged, with the digests of what was in the link buffer. */
  readonly loaded: Map<string, bigint>;
  /** The worker did not keep what it got. */
  spoiled: boolean;
  /** The post-hook has run. */
  finished: boolean;
}

export interface WorkerOptions {
  readonly device: SimulatedDevice;
  readonly links: SimulatedLinks;
  readonly clock: Clock;
  readonly trace: Trace;
  /** Whether it can say what it installed. */
  readonly reports: boolean;
  /** A bucket begins to change the weights. */
  readonly onTouched: (received: Received) => void;
  readonly onFinished: (received: Received) => void;
  readonly onDeath: () => void;
}

/** One engine worker. It takes part in one update at a time; a further one waits. */
export class SimulatedWorker {
  readonly options: WorkerOptions;
  nextLoad: LoadFault | null = null;
  #turn: Promise<unknown> = Promise.resolve();
  #exchange: Exchange | null = null;
  #alive = true;

  constructor(options: WorkerOptions) {
    this.options = options;
  }

  get isAlive(): boolean {
    return this.#alive;
  }

  /** In the middle of an update, or waiting for one to end. */
  get isBusy(): boolean {
    return this.#exchange !== null;
  }

  /** Resolves when the weights that come from that address are installed. */
  update(address: string): Promise<void> {
    const done = this.#turn.then(() => this.#run(address));
    this.#turn = done.catch(() => {});
    return done;
  }

  die(): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.note('died');
    this.#exchange?.end(new WorkerLinkError(`the worker on ${this.options.device.uuid} died`));
    this.options.onDeath();
  }

  note(what: string): void {
    this.options.trace.add(`worker of ${this.options.device.uuid}`, what);
  }

  async #run(address: string): Promise<void> {
    const { clock, links, device } = this.options;
    await elapse(clock, connectMilliseconds);
    if (!this.#alive) throw new WorkerLinkError(`the worker on ${device.uuid} is dead`);
    const link = links.find(address);
    if (link === undefined) {
      await elapse(clock, lookMilliseconds);
      throw new PeerLostError(`no rank listens at ${address}`);
    }
    await new Promise<void>((resolve, reject) => {
      this.#exchange = new Exchange(this, link, (error) => {
        this.#exchange = null;
        if (error === null) resolve();
        else reject(error);
      });
      link.connect(this.#exchange);
    });
  }
}

class Exchange implements LinkPeer {
  readonly #worker: SimulatedWorker;
  readonly #link: SimulatedLink;
  readonly #settle: (error: Error | null) => void;
  readonly #order: string[] = [];
  #received: Received | null = null;
  #buffer: SimulatedBuffer | null = null;
  /** The request being served; a worker that hangs never gets further. */
  #serving: Promise<unknown> = Promise.resolve();
  #cancelSilence: () => void = () => {};
  #over = false;

  constructor(worker: SimulatedWorker, link: SimulatedLink, settle: (error: Error | null) => void) {
    this.#worker = worker;
    this.#link = link;
    this.#settle = settle;
    this.#awaitNext();
  }

  serve(request: LinkRequest): Promise<ArrivedDigests | null> {
    this.#cancelSilence();
    const served = this.#serve(request);
    this.#serving = served.catch(() => {});
    return served.then(
      (report) => {
        if (request.type === 'finish') this.end(null);
        else this.#awaitNext();
        return report;
      },
      (error) => {
        // The rank is told, and hangs up.
        this.#awaitNext();
        throw error;
      },
    );
  }

  async abort(reason: string): Promise<void> {
    await this.#serving;
    this.end(new AbortedError(`the rank aborted the update: ${reason}`));
  }

  vanished(): void {
    this.#serving.then(() => this.end(new PeerLostError(`the rank at ${this.#link.address} has vanished`)));
  }

  end(error: Error | null): void {
    if (this.#over) return;
    this.#over = true;
    this.#worker.note(error === null ? 'done' : `hangs up: ${error.message}`);
    this.#cancelSilence();
    this.#buffer = null;
    this.#link.disconnect();
    this.#settle(error);
  }

  #awaitNext(): void {
    this.#cancelSilence = this.#worker.options.clock.after(silenceMilliseconds, () =>
      this.end(new DeadlineError(`the rank at ${this.#link.address} fell silent`)),
    );
  }

  async #serve(request: LinkRequest): Promise<ArrivedDigests | null> {
    if (this.#over) return new Promise(() => {});
    switch (request.type) {
      case 'open':
        this.#open(request);
        return null;
      case 'load':
        await this.#load(request.tensors);
        return null;
      case 'release':
        if (this.#buffer?.isFreed)
          this.#worker.options.trace.violated(`${this.#buffer.name} was freed before its release`);
        this.#buffer = null;
        return null;
      case 'finish':
        return this.#finish();
    }
  }

  #open({ epoch, version, buffer }: LinkRequest & { type: 'open' }): void {
    const { device } = this.#worker.options;
    this.#buffer = device.find(buffer.handle) ?? null;
    if (this.#buffer === null) throw new WorkerLinkError(`there is no such memory on ${device.uuid}`);
    this.#received = { epoch, version, loaded: new Map(), spoiled: false, finished: false };
  }

  async #load(tensors: readonly LinkTensor[]): Promise<void> {
    const { clock, device, onTouched, trace } = this.#worker.options;
    const [received, buffer] = [this.#received, this.#buffer];
    if (received === null || buffer === null) {
      trace.violated(`a rank announced a bucket while the worker on ${device.uuid} had no buffer open`);
      throw new WorkerLinkError('no buffer is open');
    }
    const fault = await this.#misbehave();
    onTouched(received);
    const places = tensors.map(({ name, dtype, shape, offset }) => {
      const bytes = bytesOf(DTYPES[dtypeIndex(dtype)]!, shape);
      return { name, offset, bytes, pieces: buffer.contents.read(offset, bytes) };
    });
    const bytes = places.reduce((sum, place) => sum + place.bytes, 0);
    const duration = (loadMilliseconds + bytes / reloadRate) * device.slowness;
    await elapse(clock, Math.min(duration, longestLoadMilliseconds));
    if (this.#over) return new Promise(() => {});
    if (buffer.isFreed) trace.violated(`${buffer.name} was freed while an engine worker copied out of it`);
    for (const { name, offset, bytes: size, pieces } of places) {
      if (!samePieces(pieces, buffer.contents.read(offset, size)))
        trace.violated(`${name} changed in ${buffer.name} while an engine worker copied it`);
      received.loaded.set(name, digestOf(pieces, size));
      this.#order.push(name);
    }
    if (fault === 'corrupt') received.spoiled = true;
    this.#worker.note(`loaded ${tensors.length} tensors of epoch ${received.epoch}`);
  }

  async #misbehave(): Promise<LoadFault | null> {
    const fault = this.#worker.nextLoad;
    this.#worker.nextLoad = null;
    if (fault !== null) this.#worker.note(`will ${fault} a bucket`);
    if (fault === 'refuse')
      throw new WorkerLinkError('RuntimeError: shape mismatch in a tensor of this bucket');
    if (fault === 'die') this.#worker.die();
    if (fault === 'hang' || fault === 'die') return new Promise(() => {});
    return fault;
  }

  async #finish(): Promise<ArrivedDigests | null> {
    const { clock, device, onFinished, reports } = this.#worker.options;
    await elapse(clock, postHookMilliseconds * device.slowness);
    const received = this.#received;
    if (this.#over || received === null) return new Promise(() => {});
    received.finished = true;
    onFinished(received);
    if (!reports) return null;
    const spoilt = received.spoiled ? 1n : 0n;
    return {
      digests: BigUint64Array.from(this.#order, (name) => received.loaded.get(name)! ^ spoilt),
      part: new Uint16Array(this.#order.length),
      parts: new Uint16Array(this.#order.length).fill(1),
    };
  }
}
