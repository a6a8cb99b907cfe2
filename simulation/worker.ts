import { createHash } from 'node:crypto';
import { WHOLE } from '../src/checkpoint/cuts.ts';
import { bytesOf, DTYPES, dtypeIndex } from '../src/checkpoint/dtype.ts';
import type {
  ArrivedDigests,
  KeptParts,
  LinkTensor,
  LiveDigests,
} from '../src/engines/worker-link/worker-link.ts';
import { AbortedError, DeadlineError, PeerLostError, WorkerLinkError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import { elapse } from './clock.ts';
import { clippedTo, digestOf, samePieces, shifted } from './contents.ts';
import type { SimulatedBuffer, SimulatedDevice } from './device.ts';
import { keptBytes, type Share } from './kept-parts.ts';
import type { Trace } from './trace.ts';
import type { LinkPeer, LinkRequest, SimulatedLink, SimulatedLinks } from './worker-link.ts';

/** Bytes per millisecond that a worker copies out of the link buffer. */
const reloadRate = 1e9;
/** Fixed cost of every bucket. */
const loadMilliseconds = 0.3;
/** Upper bound, because a rank that aborts frees its buffer after waiting a second for its worker (worker-link.ts). */
const longestLoadMilliseconds = 900;
const postHookMilliseconds = 5;
const connectMilliseconds = 0.2;
/** How long it tries to connect to a rank, and how long the rank may be silent. */
const connectTimeoutMilliseconds = 2_000;
const silenceMilliseconds = 600_000;

/** How a worker fails on its next bucket. */
export type LoadFault = 'refuse' | 'hang' | 'die' | 'corrupt' | 'misload';

/** What a worker received in one exchange. */
export interface Received {
  readonly epoch: number;
  /** `checkpoint@digest`, as sent by the rank. */
  readonly version: string;
  /** Tensors that were copied and acknowledged, with the digests of what its model keeps of what was in the link buffer. */
  readonly loaded: Map<string, bigint>;
  /** The worker installed other bytes than it received. */
  corrupted: boolean;
  /** The model computes with other weights than those that it was given, which no digest of these says. */
  misloaded: boolean;
  /** The post-hook has run. */
  finished: boolean;
}

export interface WorkerOptions {
  readonly device: SimulatedDevice;
  /** What it keeps of the model; null: all of it, and it does not say so. */
  readonly share: Share | null;
  readonly links: SimulatedLinks;
  readonly clock: Clock;
  readonly trace: Trace;
  /** Whether it can report what it installed. */
  readonly reports: boolean;
  /** Called before a bucket changes the weights. */
  readonly onTouched: (received: Received) => void;
  readonly onFinished: (received: Received) => void;
  readonly onDeath: () => void;
}

/** One engine worker. It takes part in one update at a time; the next one waits. */
export class SimulatedWorker {
  readonly options: WorkerOptions;
  nextLoad: LoadFault | null = null;
  /** Its loaders take less of a tensor than they should, without an error: of one that is too large, say. */
  readsLess = false;
  /** The engine has no such worker, as it may when its rank's device is not one of its own. */
  isMissing = false;
  /** How many tensors it was given, in all. */
  given = 0;
  /** Of its record of what it keeps; gone with its process. */
  token: string | null = null;
  #turn: Promise<unknown> = Promise.resolve();
  #exchange: Exchange | null = null;
  #alive = true;

  constructor(options: WorkerOptions) {
    this.options = options;
  }

  get isAlive(): boolean {
    return this.#alive;
  }

  /** Whether an update is in progress. */
  get isBusy(): boolean {
    return this.#exchange !== null;
  }

  /** Resolves when the weights sent by the rank at that address are installed. */
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
      await elapse(clock, connectTimeoutMilliseconds);
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
  /** What has arrived, in this order, with its digest. */
  readonly #order: { readonly tensor: LinkTensor; readonly digest: bigint }[] = [];
  #records = false;
  /** Tensor to the number of the call that it came in. */
  readonly #callOf = new Map<string, number>();
  #calls = 0;
  #received: Received | null = null;
  #buffer: SimulatedBuffer | null = null;
  /** Settles when the current request is served, which never happens in a worker that hangs. */
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
        // The rank gets the error, and disconnects.
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

  /** Its tensors as they arrived, in the order of their names: the simulated model repacks nothing. */
  live(): LiveDigests | null {
    const received = this.#received;
    if (!this.#worker.options.reports || received === null) return null;
    const names = [...received.loaded.keys()].sort();
    const flippedBit = received.misloaded ? 1n : 0n;
    const { share } = this.#worker.options;
    return {
      place: { engine: 'simulated', ...(share !== null && { tp: `${share.part} of ${share.parts}` }) },
      coverage: 'complete',
      layout: createHash('sha256').update(names.join()).digest('hex'),
      digests: BigUint64Array.from(names, (name) => received.loaded.get(name)! ^ flippedBit),
      names,
    };
  }

  /** As vLLM's loaders are recorded: which indices of a tensor were read. */
  kept(): KeptParts | null {
    const { share, links } = this.#worker.options;
    if (!this.#records || share === null) return null;
    links.records += 1;
    this.#worker.token = `record ${links.records}`;
    const cuts = this.#order.map(({ tensor }) => keptBytes(tensor, share).cut);
    const divided = cuts.findIndex((cut) => typeof cut === 'object');
    if (this.#worker.readsLess) cuts[divided] = { start: 0, length: 4 };
    const numbers = (of: 'start' | 'length', otherwise: number) =>
      Uint32Array.from(cuts, (cut) => (typeof cut === 'object' ? cut[of] : otherwise));
    return {
      token: this.#worker.token,
      cuts: {
        dims: Uint8Array.from(cuts, (cut) => (cut === 'all' ? WHOLE : 0)),
        starts: numbers('start', 0),
        lengths: numbers('length', 0),
      },
    };
  }

  end(error: Error | null): void {
    if (this.#over) return;
    this.#over = true;
    this.#worker.note(error === null ? 'done' : `disconnects: ${error.message}`);
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

  #open({ epoch, version, buffer, parts, kept }: LinkRequest & { type: 'open' }): void {
    const { device } = this.#worker.options;
    if (kept !== null && kept !== this.#worker.token)
      throw new WorkerLinkError('there is no such record of parts');
    this.#records = parts;
    this.#buffer = device.find(buffer.handle) ?? null;
    if (this.#buffer === null) throw new WorkerLinkError(`unknown memory handle on ${device.uuid}`);
    const faults = { corrupted: false, misloaded: false };
    this.#received = { epoch, version, loaded: new Map(), ...faults, finished: false };
  }

  async #load(tensors: readonly LinkTensor[]): Promise<void> {
    const { clock, device, onTouched, trace } = this.#worker.options;
    const [received, buffer] = [this.#received, this.#buffer];
    if (received === null || buffer === null) {
      trace.violated(`a rank announced a bucket while the worker on ${device.uuid} had no buffer open`);
      throw new WorkerLinkError('no buffer is open');
    }
    const fault = await this.#applyFault();
    onTouched(received);
    this.#calls += 1;
    for (const { name } of tensors) this.#callOf.set(name, this.#calls);
    const places = tensors.map((tensor) => {
      const { start, bytes } = sentBytes(tensor);
      return { tensor, start, bytes, pieces: buffer.contents.read(tensor.offset, bytes) };
    });
    const bytes = places.reduce((sum, place) => sum + place.bytes, 0);
    const duration = (loadMilliseconds + bytes / reloadRate) * device.slowness;
    await elapse(clock, Math.min(duration, longestLoadMilliseconds));
    if (this.#over) return new Promise(() => {});
    if (buffer.isFreed) trace.violated(`${buffer.name} was freed while an engine worker copied out of it`);
    for (const { tensor, start, bytes: size, pieces } of places) {
      if (!samePieces(pieces, buffer.contents.read(tensor.offset, size)))
        trace.violated(`${tensor.name} changed in ${buffer.name} while an engine worker copied it`);
      const arrived = pieces.map((piece) => shifted(piece, start));
      const { start: from, end, cut } = keptBytes(tensor, this.#worker.options.share);
      const kept = arrived.flatMap((piece) => clippedTo(piece, from, end));
      if (cut !== 'nothing') received.loaded.set(tensor.name, digestOf(kept));
      this.#order.push({ tensor, digest: digestOf(arrived) });
    }
    if (fault === 'corrupt') received.corrupted = true;
    if (fault === 'misload') received.misloaded = true;
    this.#worker.given += tensors.length;
    this.#worker.note(`loaded ${tensors.length} tensors of epoch ${received.epoch}`);
  }

  /** As SGLang, the engine loses a half of a fused tensor whose other half comes in another call. */
  #checkFused(): void {
    for (const [name, call] of this.#callOf) {
      const other = this.#callOf.get(name.replace('q_a_proj', 'kv_a_proj_with_mqa')) ?? call;
      if (other !== call) this.#worker.options.trace.violated(`${name} came without what it is fused with`);
    }
  }

  async #applyFault(): Promise<LoadFault | null> {
    const fault = this.#worker.nextLoad;
    this.#worker.nextLoad = null;
    if (fault !== null) this.#worker.note(`fault: ${fault}`);
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
    this.#checkFused();
    onFinished(received);
    if (!reports) return null;
    const flippedBit = received.corrupted ? 1n : 0n;
    return {
      digests: BigUint64Array.from(this.#order, ({ digest }) => digest ^ flippedBit),
      part: new Uint16Array(this.#order.length),
      parts: new Uint16Array(this.#order.length).fill(1),
    };
  }
}

/** Where in its tensor what is sent of it starts, and how many bytes that are. */
function sentBytes({ dtype, shape, part }: LinkTensor): { readonly start: number; readonly bytes: number } {
  const kind = DTYPES[dtypeIndex(dtype)]!;
  if (part === undefined) return { start: 0, bytes: bytesOf(kind, shape) };
  const [, start, length] = part;
  return { start: bytesOf(kind, [start]), bytes: bytesOf(kind, [length]) };
}
