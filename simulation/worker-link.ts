import { strict as assert } from 'node:assert';
import type {
  ArrivedDigests,
  KeptParts,
  LinkBuffer,
  LinkTensor,
  LiveDigests,
  WorkerLink,
} from '../src/engines/worker-link/worker-link.ts';
import { AbortedError, PartsRefusedError, type WeightcastError, WorkerLinkError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import type { Trace } from './trace.ts';

/** How long an abort waits for the worker to disconnect, and for one that has not answered in time, as in the real link. */
const abortMilliseconds = 5_000;
const hungMilliseconds = 500;
/** Time that one message takes over a local socket. */
const hopMilliseconds = 0.05;
/** How much later than the disconnection the worker's last answer may arrive. */
const lastReplyMilliseconds = 50;

export type LinkRequest =
  | {
      readonly type: 'open';
      readonly epoch: number;
      readonly version: string;
      readonly buffer: LinkBuffer;
      /** Whether the worker is to record what it keeps; its token of that, if parts follow. */
      readonly parts: boolean;
      readonly kept: string | null;
    }
  | { readonly type: 'load'; readonly tensors: readonly LinkTensor[] }
  | { readonly type: 'release' | 'finish' };

/** The engine worker at the other end. */
export interface LinkPeer {
  /** Rejects with the traceback that the worker sends; never settles if the worker does not answer. */
  serve(request: LinkRequest): Promise<ArrivedDigests | null>;
  /** The rank reports that the update has failed. Resolves when the worker has disconnected. */
  abort(reason: string): Promise<void>;
  /** After `finish`: what it holds; null if it does not say. */
  live(): LiveDigests | null;
  /** After `finish`: what it keeps of each tensor, if it was to record that. */
  kept(): KeptParts | null;
  /** The rank's end is closed, or its process is gone. */
  vanished(): void;
}

export interface LinkOptions {
  readonly deviceUuid: string;
  readonly epoch: number;
  readonly version: string;
  /** Null: the worker is not asked what it holds. */
  readonly liveLayouts: readonly string[] | null;
  readonly parts: boolean;
  readonly kept: string | null;
  /** How long the worker has to wait for the rank, at least. */
  readonly silenceSeconds: number;
  readonly timeoutMilliseconds: number;
  /** The rank's clock; messages in flight use the world's. */
  readonly clock: Clock;
}

/** The worker links of a simulated cluster, by address. */
export class SimulatedLinks {
  /** How many of the next links cannot be bound. */
  bindFailures = 0;
  /** How many times workers have recorded what they keep. */
  records = 0;
  /** What workers were asked for at most. */
  longestSilence = 0;
  readonly #world: Clock;
  readonly #trace: Trace;
  readonly #bound = new Map<string, SimulatedLink>();
  #count = 0;

  constructor(world: Clock, trace: Trace) {
    this.#world = world;
    this.#trace = trace;
  }

  /** Number of links that are bound. */
  get open(): number {
    return this.#bound.size;
  }

  bind(options: LinkOptions): SimulatedLink {
    this.longestSilence = Math.max(this.longestSilence, options.silenceSeconds);
    this.#count += 1;
    const address = `sim://${options.deviceUuid}/${options.epoch}-${this.#count}`;
    this.#trace.add(address, 'bound');
    const link = new SimulatedLink(address, options, this.#world, () => {
      if (this.#bound.delete(address)) this.#trace.add(address, 'closed');
    });
    this.#bound.set(address, link);
    return link;
  }

  find(address: string): SimulatedLink | undefined {
    return this.#bound.get(address);
  }
}

interface Request {
  readonly request: LinkRequest;
  resolve(report: ArrivedDigests | null): void;
  reject(error: WeightcastError): void;
}

/** The rank's end of a worker link. */
export class SimulatedLink implements WorkerLink {
  readonly takesSeveral = true;
  readonly address: string;
  readonly reports = true;
  readonly #options: LinkOptions;
  readonly #world: Clock;
  readonly #unbind: () => void;
  #peer: LinkPeer | null = null;
  /** Requests without an answer, the oldest first. */
  readonly #inFlight: Request[] = [];
  #cancelDeadline: () => void = () => {};
  #hangs = false;
  /** Settles when the peer has served what has reached it. */
  #served: Promise<unknown> = Promise.resolve();
  /** The peer has failed: it serves no more. */
  #refused = false;
  #ended: WeightcastError | null = null;
  #finished = false;
  #live: LiveDigests | null = null;
  #kept: KeptParts | null = null;
  #closed = false;

  constructor(address: string, options: LinkOptions, world: Clock, unbind: () => void) {
    this.address = address;
    this.#options = options;
    this.#world = world;
    this.#unbind = unbind;
  }

  // ── the worker's side ────────────────────────────────────────────────────────────────────────────────────────

  connect(peer: LinkPeer): void {
    this.#peer = peer;
    this.#served = Promise.resolve();
    this.#refused = false;
    for (const request of this.#inFlight) this.#send(request);
  }

  /** The worker has disconnected, or died. */
  disconnect(): void {
    this.#peer = null;
    this.#world.after(lastReplyMilliseconds, () => {
      if (!this.#finished) this.#end(this.#failure('closed the connection'));
    });
  }

  // ── the rank's side ──────────────────────────────────────────────────────────────────────────────────────────

  check(): void {}

  async open(buffer: LinkBuffer): Promise<void> {
    const { epoch, version, parts, kept } = this.#options;
    await this.#ask({ type: 'open', epoch, version, buffer, parts, kept });
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    await this.#ask({ type: 'load', tensors });
  }

  async release(): Promise<void> {
    await this.#ask({ type: 'release' });
  }

  async finish(): Promise<ArrivedDigests | null> {
    // It disconnects when it has answered.
    const peer = this.#peer;
    const report = await this.#ask({ type: 'finish' });
    this.#live = this.#options.liveLayouts === null ? null : (peer?.live() ?? null);
    this.#kept = peer?.kept() ?? null;
    this.#finished = true;
    return report;
  }

  get live(): LiveDigests | null {
    return this.#live;
  }

  get kept(): KeptParts | null {
    return this.#kept;
  }

  async abort(reason: string): Promise<void> {
    this.#end(new AbortedError(reason));
    const peer = this.#peer;
    if (peer !== null && !this.#finished) {
      await new Promise<void>((resolve) => {
        const most = this.#hangs ? hungMilliseconds : abortMilliseconds;
        const cancel = this.#options.clock.after(most, resolve);
        this.#world.after(hopMilliseconds, () => {
          // As a worker that takes one message at a time, it serves what was announced before it reads the abort.
          this.#served
            .then(() => peer.abort(reason))
            .then(() => {
              cancel();
              resolve();
            });
        });
      });
    }
    this.close();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#end(new AbortedError(`the worker link of device ${this.#options.deviceUuid} was closed`));
    this.vanish();
  }

  /** Closes the socket without ending the link, as when the process is killed. */
  vanish(): void {
    this.#unbind();
    const peer = this.#peer;
    this.#peer = null;
    if (peer !== null) this.#world.after(hopMilliseconds, () => peer.vanished());
  }

  #ask(request: LinkRequest): Promise<ArrivedDigests | null> {
    const isLoad = ({ type }: LinkRequest) => type === 'load';
    const mayBeAsked = isLoad(request) && this.#inFlight.every((earlier) => isLoad(earlier.request));
    assert(
      this.#inFlight.length === 0 || mayBeAsked,
      'a worker link takes several buckets, and else one request',
    );
    if (this.#ended !== null) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      const asked = { request, resolve, reject };
      this.#inFlight.push(asked);
      if (this.#inFlight.length === 1) this.#await(asked);
      if (this.#peer !== null) this.#send(asked);
    });
  }

  /** The request has become the oldest in flight: the time for its answer runs. */
  #await({ request }: Request): void {
    const { timeoutMilliseconds, clock } = this.#options;
    const late = `did not answer ${request.type} within ${timeoutMilliseconds} ms`;
    this.#cancelDeadline = clock.after(timeoutMilliseconds, () => {
      this.#hangs = this.#peer !== null;
      this.#end(this.#failure(late));
    });
  }

  #send(asked: Request): void {
    const peer = this.#peer!;
    const { request } = asked;
    const afterHop = (then: () => void) => this.#world.after(hopMilliseconds, then);
    const isDue = () => this.#inFlight[0] === asked;
    const type = request.type === 'open' && request.kept !== null ? PartsRefusedError : WorkerLinkError;
    const refused = (error: Error) => this.#failure(`failed on ${request.type}: ${error.message}`, type);
    afterHop(() => {
      this.#served = this.#served
        .then(() => (this.#refused ? null : peer.serve(request)))
        .then(
          (report) => this.#refused || afterHop(() => isDue() && this.#answered(report)),
          (error) => {
            this.#refused = true;
            afterHop(() => isDue() && this.#end(refused(error)));
          },
        );
    });
  }

  #answered(report: ArrivedDigests | null): void {
    this.#cancelDeadline();
    this.#inFlight.shift()!.resolve(report);
    const [next] = this.#inFlight;
    if (next !== undefined) this.#await(next);
  }

  #end(error: WeightcastError): void {
    this.#ended ??= error;
    this.#cancelDeadline();
    for (const { reject } of this.#inFlight.splice(0)) reject(this.#ended);
  }

  #failure(fault: string, type: typeof WorkerLinkError | typeof PartsRefusedError = WorkerLinkError) {
    return new type(`the engine worker on device ${this.#options.deviceUuid} ${fault}`);
  }
}
