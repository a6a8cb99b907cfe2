import { strict as assert } from 'node:assert';
import {
  AbortedError,
  DeadlineError,
  NativeError,
  OverloadedError,
  PeerLostError,
  type WeightcastError,
} from '../src/errors.ts';
import type { Interval } from '../src/native-bridge/addon.ts';
import type {
  ConnectOptions,
  Exposure,
  Fabric,
  FabricKind,
  FabricPeer,
  ReadOptions,
} from '../src/native-bridge/fabric.ts';
import type { Clock } from '../src/ports.ts';
import { type Piece, samePieces } from './contents.ts';
import { elapse } from './device.ts';
import type { SimulatedHost, SimulatedSegment } from './host.ts';
import type { SeededRandom } from './random.ts';
import { SharedLinks } from './shared-links.ts';
import type { Trace } from './trace.ts';

/** Bytes a millisecond that a network card registers. */
const registrationRate = 25e6;
const connectMilliseconds = 0.5;
/** A request on its way to whoever is read from. */
const latencyMilliseconds = 0.02;
/** How long it takes at most to notice that a peer's process is gone. */
const noticeMilliseconds = 1_000;
/** As native/fabric has it. */
const readLimit = 1_024;

/** Where a fabric is: on a host, behind one of its network cards. */
export interface Place {
  readonly host: SimulatedHost;
  readonly nic: string;
}

export interface FabricsOptions {
  readonly clock: Clock;
  readonly trace: Trace;
  readonly random: SeededRandom;
  /** Bytes a millisecond of every network card, in each direction. */
  readonly linkRate: number;
  /** Whether a process that can be told what is going on may read a segment of another one at the moment. */
  readonly mayRead: (reader: string, source: string, path: string) => boolean;
}

/** The fabrics of a simulated cluster, by address, and the network between them. */
export class SimulatedFabrics {
  readonly options: FabricsOptions;
  readonly links: SharedLinks;
  readonly #open = new Map<string, SimulatedFabric>();
  readonly #given = new Map<string, number>();
  #opened = 0;
  #tokens = 0;

  constructor(options: FabricsOptions) {
    this.options = options;
    this.links = new SharedLinks(options.clock, options.linkRate);
  }

  /** `clock` is the process's; what is under way goes by the world's. */
  open(name: string, place: Place, clock: Clock): SimulatedFabric {
    this.#opened += 1;
    const address = `fabric-${this.#opened}`;
    const fabric = new SimulatedFabric(this, { name, place, clock, address });
    this.#open.set(address, fabric);
    return fabric;
  }

  find(address: Uint8Array): SimulatedFabric | undefined {
    return this.#open.get(new TextDecoder().decode(address));
  }

  gone(address: string): void {
    this.#open.delete(address);
  }

  newToken(): string {
    this.#tokens += 1;
    return `token-${this.#tokens}`;
  }

  /** Cuts all network cards of a host off, without a word to anyone. */
  silence({ name }: SimulatedHost, nics: readonly string[]): void {
    for (const nic of nics) for (const way of ways) this.links.silence(linkName(name, nic, way));
  }

  restore({ name }: SimulatedHost, nics: readonly string[]): void {
    for (const nic of nics) for (const way of ways) this.links.restore(linkName(name, nic, way));
  }

  /** Bytes that others have read from a host, in reads that came to their end. */
  givenBy({ name }: SimulatedHost): number {
    return this.#given.get(name) ?? 0;
  }

  gave({ name }: SimulatedHost, bytes: number): void {
    this.#given.set(name, (this.#given.get(name) ?? 0) + bytes);
  }

  get all(): SimulatedFabric[] {
    return [...this.#open.values()];
  }
}

const ways = ['in', 'out'] as const;

function linkName(host: string, nic: string, way: (typeof ways)[number]): string {
  return `${host}/${nic} ${way}`;
}

interface FabricIdentity {
  /** Of the process. */
  readonly name: string;
  readonly place: Place;
  readonly clock: Clock;
  readonly address: string;
}

/** The fabric of one process. */
export class SimulatedFabric implements Fabric {
  readonly fabrics: SimulatedFabrics;
  readonly identity: FabricIdentity;
  readonly address: Uint8Array;
  readonly #exposures = new Map<string, SimulatedExposure>();
  readonly #peers = new Set<SimulatedPeer>();
  /** Peers elsewhere that are connected to this one. */
  readonly readers = new Set<SimulatedPeer>();
  #isGone = false;

  constructor(fabrics: SimulatedFabrics, identity: FabricIdentity) {
    this.fabrics = fabrics;
    this.identity = identity;
    this.address = new TextEncoder().encode(identity.address);
  }

  /** Paths of what peers may read. */
  get exposed(): string[] {
    return [...this.#exposures.values()].map(({ segment }) => segment.path);
  }

  /** Peers that it is connected to. */
  get peers(): number {
    return this.#peers.size;
  }

  get isGone(): boolean {
    return this.#isGone;
  }

  async expose(mapping: object): Promise<Exposure> {
    const segment = mapping as SimulatedSegment;
    const { place, clock } = this.identity;
    if (this.#isGone) throw new NativeError('the fabric is closed');
    await elapse(clock, segment.bytes / registrationRate);
    if (this.#isGone) throw new AbortedError('the fabric was closed');
    if (!place.host.has(segment)) throw new NativeError(`${segment.path}: the file has lost its name`);
    const token = this.fabrics.newToken();
    const exposure = new SimulatedExposure(token, segment, () => this.#exposures.delete(token));
    this.#exposures.set(token, exposure);
    return exposure;
  }

  async connect(address: Uint8Array, { name, timeoutMilliseconds, signal }: ConnectOptions) {
    const { clock } = this.identity;
    const { links } = this.fabrics;
    const other = this.fabrics.find(address);
    const wait = new Wait(clock, { what: `connecting to ${name}`, timeoutMilliseconds, signal });
    const names = other === undefined ? [] : [...linksBetween(other, this), ...linksBetween(this, other)];
    const answer = () => {
      const isThere = other !== undefined && !other.isGone && !this.#isGone;
      wait.settle(isThere ? null : new PeerLostError(`${name} is not there`));
    };
    wait.until(links.whenOpen(names, () => wait.until(clock.after(connectMilliseconds, answer))));
    await wait.done;
    const peer = new SimulatedPeer(this, other!, name, () => this.#peers.delete(peer));
    this.#peers.add(peer);
    return peer;
  }

  close(): void {
    if (this.#isGone) return;
    this.vanish();
    for (const peer of this.#peers) peer.close();
  }

  /** Its process is gone, or it closes. */
  vanish(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.fabrics.gone(this.identity.address);
    this.#exposures.clear();
    for (const peer of this.#peers) {
      peer.stall();
      peer.source.readers.delete(peer);
    }
    const { clock, random } = this.fabrics.options;
    for (const peer of this.readers) {
      peer.stall();
      clock.after(random.between(0, noticeMilliseconds), () => peer.lose());
    }
  }

  /** The process unmaps a segment. */
  unmapped(path: string): void {
    const { trace } = this.fabrics.options;
    const { name } = this.identity;
    if (this.exposed.includes(path)) trace.violated(`${name} unmapped ${path} while its peers could read it`);
    for (const peer of this.#peers) {
      if (peer.isReadingInto(path)) trace.violated(`${name} unmapped ${path} while it was reading into it`);
    }
  }

  /** Undefined once it is closed. */
  exposure(token: string): SimulatedExposure | undefined {
    return this.#exposures.get(token);
  }
}

/** What bytes go over from one to the other. */
function linksBetween(from: SimulatedFabric, to: SimulatedFabric): string[] {
  const [source, destination] = [from.identity.place, to.identity.place];
  if (source.host === destination.host) return [`memory of ${source.host.name}`];
  return [
    linkName(source.host.name, source.nic, 'out'),
    linkName(destination.host.name, destination.nic, 'in'),
  ];
}

export class SimulatedExposure implements Exposure {
  readonly token: Uint8Array;
  readonly segment: SimulatedSegment;
  readonly readsOf = new Set<(error: WeightcastError) => void>();
  readonly #end: () => void;
  #isClosed = false;

  constructor(token: string, segment: SimulatedSegment, end: () => void) {
    this.token = new TextEncoder().encode(token);
    this.segment = segment;
    this.#end = end;
  }

  get readers(): number {
    return this.readsOf.size;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#end();
    const error = new NativeError(`the exposure of ${this.segment.path} was closed`);
    for (const fail of this.readsOf) fail(error);
  }
}

interface Range {
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
}

interface Read {
  readonly destination: SimulatedSegment;
  readonly ranges: readonly Range[];
  readonly progress: Float64Array | undefined;
  readonly wait: Wait;
  /** Stops the bytes. */
  stop(): void;
}

/** One end of a connection: who reads. */
class SimulatedPeer implements FabricPeer {
  readonly kind: FabricKind;
  readonly #reader: SimulatedFabric;
  readonly source: SimulatedFabric;
  readonly #name: string;
  readonly #end: () => void;
  readonly #reads = new Set<Read>();
  #ended: WeightcastError | null = null;

  constructor(reader: SimulatedFabric, source: SimulatedFabric, name: string, end: () => void) {
    this.#reader = reader;
    this.source = source;
    this.#name = name;
    this.#end = end;
    this.kind = source.identity.place.host === reader.identity.place.host ? 'shm' : 'tcp';
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
    const destination = mapping as SimulatedSegment;
    const ranges = rangesOf(numbers);
    if (this.#ended !== null) throw this.#ended;
    if (this.#reads.size >= readLimit)
      throw new OverloadedError(`${readLimit} reads from ${this.#name} are under way`);
    checkRanges(destination, ranges, ({ to }) => to);
    const { clock } = this.#reader.identity;
    const startedAt = clock.now();
    const wait = new Wait(clock, { what: `a read from ${this.#name}`, timeoutMilliseconds, signal });
    const read: Read = { destination, ranges, progress, wait, stop: () => {} };
    this.#reads.add(read);
    wait.until(() => {
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
    this.#end();
  }

  /** One of the two processes is gone, which the other does not know yet: no byte comes any more. */
  stall(): void {
    for (const read of this.#reads) read.stop();
  }

  /** The source is gone. */
  lose(): void {
    this.#fail(new PeerLostError(`${this.#name} is gone`));
  }

  #fail(error: WeightcastError): void {
    this.#ended ??= error;
    for (const { wait } of this.#reads) wait.settle(error);
  }

  #request(read: Read, token: string): void {
    if (this.source.isGone) return;
    const { links } = this.source.fabrics;
    const names = [...linksBetween(this.#reader, this.source), ...linksBetween(this.source, this.#reader)];
    let recall = () => {};
    const giveUp = links.whenOpen(names, () => {
      recall = this.#reader.identity.clock.after(latencyMilliseconds, () => this.#serve(read, token));
    });
    read.stop = () => {
      giveUp();
      recall();
    };
  }

  #serve(read: Read, token: string): void {
    const exposure = this.source.exposure(token);
    if (exposure === undefined) {
      read.wait.settle(new NativeError(`${this.#name} exposes nothing by that token, or does not any more`));
      return;
    }
    const { segment, readsOf } = exposure;
    try {
      checkRanges(segment, read.ranges, ({ from }) => from);
    } catch (error) {
      read.wait.settle(error as NativeError);
      return;
    }
    const fail = (error: WeightcastError) => read.wait.settle(error);
    this.#checkLent(segment);
    readsOf.add(fail);
    read.wait.until(() => readsOf.delete(fail));
    const before = contentsOf(segment, read.ranges);
    spoil(read, before);
    const bytes = read.ranges.reduce((sum, range) => sum + range.bytes, 0);
    const names = linksBetween(this.source, this.#reader);
    const { links } = this.source.fabrics;
    read.stop = links.send(names, bytes, () => this.#arrived(read, segment, before));
  }

  /** What joiners have received they serve on as long as they hold it. */
  #checkLent({ path }: SimulatedSegment): void {
    const { fabrics, identity } = this.source;
    const { mayRead, trace } = fabrics.options;
    const reader = this.#reader.identity.name;
    if (path.includes('/mirror-') || mayRead(reader, identity.name, path)) return;
    trace.violated(`${reader} read ${path} after ${identity.name} took it back`);
  }

  #arrived(read: Read, segment: SimulatedSegment, before: readonly (readonly Piece[])[]): void {
    const { fabrics, identity } = this.source;
    const { trace } = fabrics.options;
    const { ranges, destination, progress } = read;
    this.#checkLent(segment);
    for (const [index, now] of contentsOf(segment, ranges).entries()) {
      if (!samePieces(now, before[index]!)) trace.violated(`${segment.path} changed while it was read`);
    }
    for (const [index, { to, bytes }] of ranges.entries()) {
      destination.contents.write(to, bytes, before[index]!);
      if (progress !== undefined) progress[0]! += bytes;
      fabrics.gave(identity.place.host, bytes);
    }
    read.wait.settle(null);
  }
}

/** While bytes arrive nobody can say what is there, unless it is the same already. */
function spoil({ destination, ranges }: Read, coming: readonly (readonly Piece[])[]): void {
  for (const [index, { to, bytes }] of ranges.entries()) {
    if (samePieces(destination.contents.read(to, bytes), coming[index]!)) continue;
    destination.contents.erase(to, bytes);
  }
}

function contentsOf({ contents }: SimulatedSegment, ranges: readonly Range[]): Piece[][] {
  return ranges.map(({ from, bytes }) => contents.read(from, bytes));
}

function rangesOf(numbers: Float64Array): Range[] {
  assert(numbers.length % 3 === 0, 'a range is three numbers');
  const ranges: Range[] = [];
  for (let at = 0; at < numbers.length; at += 3) {
    ranges.push({ from: numbers[at]!, to: numbers[at + 1]!, bytes: numbers[at + 2]! });
  }
  return ranges;
}

function checkRanges(
  { path, bytes: size }: SimulatedSegment,
  ranges: readonly Range[],
  offsetOf: (range: Range) => number,
): void {
  for (const range of ranges) {
    if (offsetOf(range) >= 0 && offsetOf(range) + range.bytes <= size) continue;
    throw new NativeError(`a range of a read lies outside ${path}, which has ${size} bytes`);
  }
}

interface WaitOptions {
  readonly what: string;
  readonly timeoutMilliseconds: number;
  readonly signal?: AbortSignal | undefined;
}

/** Something that ends once: by itself, by its deadline, or by a signal. */
class Wait {
  readonly done: Promise<void>;
  readonly #ends: (() => void)[] = [];
  #resolve: () => void = () => {};
  #reject: (error: WeightcastError) => void = () => {};
  #isOver = false;

  constructor(clock: Clock, { what, timeoutMilliseconds, signal }: WaitOptions) {
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    const late = `${what} took longer than ${timeoutMilliseconds} ms`;
    this.until(clock.after(timeoutMilliseconds, () => this.settle(new DeadlineError(late))));
    const onAbort = () => this.settle(new AbortedError(`${what} was cancelled`));
    signal?.addEventListener('abort', onAbort, { once: true });
    this.until(() => signal?.removeEventListener('abort', onAbort));
    if (signal?.aborted) onAbort();
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Calls when it is over, at once if it is. */
  until(end: () => void): void {
    if (this.#isOver) end();
    else this.#ends.push(end);
  }

  settle(error: WeightcastError | null): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const end of this.#ends) end();
    if (error === null) this.#resolve();
    else this.#reject(error);
  }
}
