import type { CallOptions, EngineClient, EngineUpdate } from '../engines/engine-client.ts';
import type { InstalledReport, LinkTensor, WorkerLink } from '../engines/worker-link/worker-link.ts';
import { AbortedError, EngineError, type WeightcastError, WorkerLinkError } from '../errors.ts';
import type { Clock } from '../ports.ts';
import { elapse } from './device.ts';

/** What a worker needs for a bucket. */
const loadMilliseconds = 2;

/** One simulated instance: an HTTP face, and one worker for each link that the face is told of. */
export class SimulatedEngine implements EngineClient {
  readonly endpoint: string;
  /** Updates that all workers finished: the truth that a cluster's ledger is measured by. */
  finishedUpdates = 0;
  /** Makes the engine's answer to the next update an error. */
  failNextUpdate = false;
  readonly #links: SimulatedLinks;

  constructor(endpoint: string, links: SimulatedLinks) {
    this.endpoint = endpoint;
    this.#links = links;
  }

  async ready(): Promise<void> {}

  async pause(): Promise<void> {}

  async resume(): Promise<void> {}

  async update({ links }: EngineUpdate, { signal }: CallOptions): Promise<void> {
    if (this.failNextUpdate) {
      this.failNextUpdate = false;
      throw new EngineError(`${this.endpoint} has no such method`);
    }
    const cancelled = new Promise<never>((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(new AbortedError('the call was cancelled')), {
        once: true,
      });
    });
    const finished = Object.values(links).map((address) => this.#links.connect(address));
    await Promise.race([Promise.all(finished), cancelled]);
    this.finishedUpdates += 1;
  }

  async close(): Promise<void> {}
}

/** The links of a simulated cluster, by address. */
export class SimulatedLinks {
  readonly #clock: Clock;
  readonly #bound = new Map<string, SimulatedLink>();
  #count = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Links that are bound; tests look whether all were closed. */
  get open(): number {
    return this.#bound.size;
  }

  bind(deviceUuid: string): WorkerLink {
    this.#count += 1;
    const address = `sim://${deviceUuid}/${this.#count}`;
    const link = new SimulatedLink(address, this.#clock, () => this.#bound.delete(address));
    this.#bound.set(address, link);
    return link;
  }

  /** Resolves when the worker that connects has finished its update. */
  connect(address: string): Promise<void> {
    const link = this.#bound.get(address);
    if (link === undefined) return Promise.reject(new EngineError(`nobody listens at ${address}`));
    return link.connect();
  }
}

class SimulatedLink implements WorkerLink {
  readonly address: string;
  readonly #clock: Clock;
  readonly #unbind: () => void;
  readonly #connected: Promise<void>;
  readonly #finished: Promise<void>;
  #signalConnected: () => void = () => {};
  #signalFinished: () => void = () => {};
  #fail: (error: WeightcastError) => void = () => {};
  readonly #failure: Promise<never>;

  constructor(address: string, clock: Clock, unbind: () => void) {
    this.address = address;
    this.#clock = clock;
    this.#unbind = unbind;
    this.#connected = new Promise((resolve) => {
      this.#signalConnected = resolve;
    });
    this.#finished = new Promise((resolve) => {
      this.#signalFinished = resolve;
    });
    this.#failure = new Promise((_resolve, reject) => {
      this.#fail = reject;
    });
    this.#failure.catch(() => {});
  }

  /** The worker's side of it. */
  async connect(): Promise<void> {
    this.#signalConnected();
    await Promise.race([this.#finished, this.#failure]);
  }

  check(): void {}

  async open(): Promise<void> {
    await Promise.race([this.#connected, this.#failure]);
  }

  async load(_tensors: readonly LinkTensor[]): Promise<void> {
    await Promise.race([elapse(this.#clock, loadMilliseconds), this.#failure]);
  }

  async release(): Promise<void> {
    await Promise.race([elapse(this.#clock, 1), this.#failure]);
  }

  async finish(): Promise<InstalledReport | null> {
    await Promise.race([elapse(this.#clock, 1), this.#failure]);
    this.#signalFinished();
    return null;
  }

  async abort(reason: string): Promise<void> {
    this.#fail(new AbortedError(`aborted: ${reason}`));
  }

  close(): void {
    this.#fail(new WorkerLinkError('the link is closed'));
    this.#unbind();
  }
}
