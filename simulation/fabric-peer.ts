import {
  AbortedError,
  NativeError,
  OverloadedError,
  PeerLostError,
  type WeightcastError,
} from '../src/errors.ts';
import type { Interval } from '../src/native-bridge/addon.ts';
import type { Exposure, FabricKind, FabricPeer, ReadOptions } from '../src/native-bridge/fabric.ts';
import type { Clock } from '../src/ports.ts';
import { asSegment, type Piece, type SimulatedSegment, samePieces } from './contents.ts';
import { linksBetween, type Place } from './fabric-place.ts';
import { checkRanges, contentsOf, type Range, rangesOf } from './fabric-ranges.ts';
import type { SimulatedHost } from './host.ts';
import type { SharedLinks } from './shared-links.ts';
import { TimedWait } from './timed-wait.ts';
import type { Trace } from './trace.ts';

/** Time that a request needs to reach the source. */
const latencyMilliseconds = 0.02;
/** As in native/fabric. */
const readLimit = 1_024;

/** What reads need of the network between the fabrics. */
export interface FabricNetwork {
  readonly links: SharedLinks;
  readonly trace: Trace;
  /** Whether a reader may read a segment of a source now; as far as can be judged from the leases. */
  mayRead(reader: string, source: string, path: string): boolean;
  /** Counts bytes that a host has served. */
  countServed(host: SimulatedHost, bytes: number): void;
}

/** One fabric, as its peers and exposures see it. */
export interface FabricEnd {
  readonly network: FabricNetwork;
  /** Name of its process. */
  readonly name: string;
  readonly place: Place;
  readonly clock: Clock;
  readonly isGone: boolean;
  /** Connections of other fabrics to this one. */
  readonly readers: Set<SimulatedPeer>;
  /** Undefined once it is closed. */
  exposure(token: string): SimulatedExposure | undefined;
}

export class SimulatedExposure implements Exposure {
  readonly token: Uint8Array;
  readonly segment: SimulatedSegment;
  /** Fails a read of it that is in flight. */
  readonly readsInFlight = new Set<(error: WeightcastError) => void>();
  readonly #onClose: () => void;
  #isClosed = false;

  constructor(token: string, segment: SimulatedSegment, onClose: () => void) {
    this.token = new TextEncoder().encode(token);
    this.segment = segment;
    this.#onClose = onClose;
  }

  get readers(): number {
    return this.readsInFlight.size;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#onClose();
    const error = new NativeError(`the exposure of ${this.segment.path} was closed`);
    for (const fail of this.readsInFlight) fail(error);
  }
}

interface Read {
  readonly destination: SimulatedSegment;
  readonly ranges: readonly Range[];
  readonly progress: Float64Array | undefined;
  readonly wait: TimedWait;
  /** Stops the transfer. */
  stop(): void;
}

/** The reader's end of a connection. */
export class SimulatedPeer implements FabricPeer {
  readonly whyNotRdma = null;
  readonly kind: FabricKind;
  readonly #reader: FabricEnd;
  readonly source: FabricEnd;
  readonly #name: string;
  readonly #onClose: () => void;
  readonly #reads = new Set<Read>();
  #ended: WeightcastError | null = null;

  constructor(reader: FabricEnd, source: FabricEnd, name: string, onClose: () => void) {
    this.#reader = reader;
    this.source = source;
    this.#name = name;
    this.#onClose = onClose;
    this.kind = source.place.host === reader.place.host ? 'shm' : 'tcp';
    source.readers.add(this);
  }

  isReadingInto(path: string): boolean {
    return [...this.#reads].some(({ destination }) => destination.path === path);
  }

  async read(
    token: Uint8Array,
    numbers: Float64Array,
    mapping: object,
    { timeoutMilliseconds, signal, progress }: ReadOptions,
  ): Promise<Interval> {
    const destination = asSegment(mapping);
    const ranges = rangesOf(numbers);
    if (this.#ended !== null) throw this.#ended;
    if (this.#reads.size >= readLimit)
      throw new OverloadedError(`${readLimit} reads from ${this.#name} are in flight`);
    checkRanges(destination, ranges, ({ to }) => to);
    const { clock } = this.#reader;
    const startedAt = clock.now();
    const wait = new TimedWait(clock, { what: `a read from ${this.#name}`, timeoutMilliseconds, signal });
    const read: Read = { destination, ranges, progress, wait, stop: () => {} };
    this.#reads.add(read);
    wait.onEnd(() => {
      this.#reads.delete(read);
      read.stop();
    });
    if (!wait.isOver) this.#request(read, new TextDecoder().decode(token));
    await wait.done;
    return { startedAt, endedAt: clock.now() };
  }

  close(): void {
    this.#fail(new AbortedError(`the connection to ${this.#name} was closed`));
    this.source.readers.delete(this);
    this.#onClose();
  }

  /** One of the two processes is gone and the other has not noticed yet: no more bytes arrive. */
  stall(): void {
    for (const read of this.#reads) read.stop();
  }

  /** The reader notices that the source is gone. */
  lose(): void {
    this.#fail(new PeerLostError(`${this.#name} is gone`));
  }

  #fail(error: WeightcastError): void {
    this.#ended ??= error;
    for (const { wait } of this.#reads) wait.settle(error);
  }

  #request(read: Read, token: string): void {
    if (this.source.isGone) return;
    const { links } = this.source.network;
    const [there, here] = [this.source.place, this.#reader.place];
    let cancelRequest = () => {};
    const cancelWait = links.whenOpen([...linksBetween(here, there), ...linksBetween(there, here)], () => {
      cancelRequest = this.#reader.clock.after(latencyMilliseconds, () => this.#serve(read, token));
    });
    read.stop = () => {
      cancelWait();
      cancelRequest();
    };
  }

  #serve(read: Read, token: string): void {
    const exposure = this.source.exposure(token);
    if (exposure === undefined) {
      read.wait.settle(new NativeError(`${this.#name} has no open exposure with that token`));
      return;
    }
    const { segment, readsInFlight } = exposure;
    try {
      checkRanges(segment, read.ranges, ({ from }) => from);
    } catch (error) {
      read.wait.settle(error as NativeError);
      return;
    }
    const fail = (error: WeightcastError) => read.wait.settle(error);
    this.#checkLease(segment);
    readsInFlight.add(fail);
    read.wait.onEnd(() => readsInFlight.delete(fail));
    const before = contentsOf(segment, read.ranges);
    eraseDestination(read, before);
    const bytes = read.ranges.reduce((sum, range) => sum + range.bytes, 0);
    const { links } = this.source.network;
    const path = linksBetween(this.source.place, this.#reader.place);
    read.stop = links.send(path, bytes, () => this.#arrived(read, segment, before));
  }

  /** Mirrors, which joiners have received, need no lease: they are served for as long as they are held. */
  #checkLease({ path }: SimulatedSegment): void {
    const { network, name } = this.source;
    if (path.includes('/mirror-') || network.mayRead(this.#reader.name, name, path)) return;
    network.trace.violated(`${this.#reader.name} read ${path} after ${name} took it back`);
  }

  #arrived(read: Read, segment: SimulatedSegment, before: readonly (readonly Piece[])[]): void {
    const { network, place } = this.source;
    const { ranges, destination, progress } = read;
    this.#checkLease(segment);
    for (const [index, now] of contentsOf(segment, ranges).entries()) {
      if (!samePieces(now, before[index]!))
        network.trace.violated(`${segment.path} changed while it was read`);
    }
    for (const [index, { to, bytes }] of ranges.entries()) {
      destination.contents.write(to, bytes, before[index]!);
      if (progress !== undefined) progress[0]! += bytes;
      network.countServed(place.host, bytes);
    }
    read.wait.settle(null);
  }
}

/** The destination is undefined while bytes arrive, except where it already holds the same ones. */
function eraseDestination({ destination, ranges }: Read, incoming: readonly (readonly Piece[])[]): void {
  for (const [index, { to, bytes }] of ranges.entries()) {
    if (samePieces(destination.contents.read(to, bytes), incoming[index]!)) continue;
    destination.contents.erase(to, bytes);
  }
}
