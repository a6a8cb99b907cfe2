import { AbortedError, NativeError, PeerLostError } from '../src/errors.ts';
import type { ConnectOptions, Exposure, Fabric } from '../src/native-bridge/fabric.ts';
import type { Clock } from '../src/ports.ts';
import { elapse } from './clock.ts';
import { asSegment } from './contents.ts';
import { type FabricEnd, type FabricNetwork, SimulatedExposure, SimulatedPeer } from './fabric-peer.ts';
import { linksBetween, linksOf, type Place } from './fabric-place.ts';
import type { SimulatedHost } from './host.ts';
import type { SeededRandom } from './random.ts';
import { SharedLinks } from './shared-links.ts';
import { TimedWait } from './timed-wait.ts';
import type { Trace } from './trace.ts';

/** Bytes per millisecond that a network card registers. */
const registrationRate = 25e6;
const connectMilliseconds = 0.5;
/** The longest that a reader needs to notice that its peer's process is gone. */
const noticeMilliseconds = 1_000;

export interface FabricsOptions {
  readonly clock: Clock;
  readonly trace: Trace;
  readonly random: SeededRandom;
  /** Bytes per millisecond of every network card, in each direction. */
  readonly linkRate: number;
  /** As {@link FabricNetwork.mayRead}. */
  readonly mayRead: FabricNetwork['mayRead'];
}

/** The fabrics of a simulated cluster, by address, and the network between them. */
export class SimulatedFabrics implements FabricNetwork {
  readonly links: SharedLinks;
  readonly trace: Trace;
  readonly mayRead: FabricNetwork['mayRead'];
  readonly #options: FabricsOptions;
  readonly #open = new Map<string, SimulatedFabric>();
  readonly #served = new Map<string, number>();
  #opened = 0;
  #tokens = 0;

  constructor(options: FabricsOptions) {
    this.#options = options;
    this.trace = options.trace;
    this.mayRead = options.mayRead;
    this.links = new SharedLinks(options.clock, options.linkRate);
  }

  /** `clock` is that of the process; transfers use the world's. */
  open(name: string, place: Place, clock: Clock): SimulatedFabric {
    this.#opened += 1;
    const address = `fabric-${this.#opened}`;
    const fabric = new SimulatedFabric(this, { name, place, clock, address });
    this.#open.set(address, fabric);
    return fabric;
  }

  get all(): SimulatedFabric[] {
    return [...this.#open.values()];
  }

  find(address: Uint8Array): SimulatedFabric | undefined {
    return this.#open.get(new TextDecoder().decode(address));
  }

  /** The fabric's process is gone; its readers notice at random moments. */
  gone(address: string, readers: Iterable<SimulatedPeer>): void {
    this.#open.delete(address);
    const { clock, random } = this.#options;
    for (const peer of readers) {
      peer.stall();
      clock.after(random.between(0, noticeMilliseconds), () => peer.lose());
    }
  }

  newToken(): string {
    this.#tokens += 1;
    return `token-${this.#tokens}`;
  }

  /** Cuts off all network cards of a host; no process is notified. */
  silence(host: SimulatedHost, nics: readonly string[]): void {
    for (const name of linksOfHost(host, nics)) this.links.silence(name);
  }

  restore(host: SimulatedHost, nics: readonly string[]): void {
    for (const name of linksOfHost(host, nics)) this.links.restore(name);
  }

  /** Bytes that others have read from a host, in reads that completed. */
  servedBy({ name }: SimulatedHost): number {
    return this.#served.get(name) ?? 0;
  }

  countServed(host: SimulatedHost, bytes: number): void {
    this.#served.set(host.name, this.servedBy(host) + bytes);
  }
}

function linksOfHost(host: SimulatedHost, nics: readonly string[]): string[] {
  return nics.flatMap((nic) => Object.values(linksOf({ host, nic })));
}

interface FabricIdentity {
  /** Name of the process. */
  readonly name: string;
  readonly place: Place;
  readonly clock: Clock;
  readonly address: string;
}

/** The fabric of one process. */
export class SimulatedFabric implements Fabric, FabricEnd {
  readonly network: SimulatedFabrics;
  readonly name: string;
  readonly place: Place;
  readonly clock: Clock;
  readonly address: Uint8Array;
  readonly readers = new Set<SimulatedPeer>();
  readonly #address: string;
  readonly #exposures = new Map<string, SimulatedExposure>();
  readonly #peers = new Set<SimulatedPeer>();
  #isGone = false;

  constructor(network: SimulatedFabrics, { name, place, clock, address }: FabricIdentity) {
    this.network = network;
    this.name = name;
    this.place = place;
    this.clock = clock;
    this.#address = address;
    this.address = new TextEncoder().encode(address);
  }

  /** Paths of the segments that peers may read. */
  get exposed(): string[] {
    return [...this.#exposures.values()].map(({ segment }) => segment.path);
  }

  /** Number of peers that it is connected to. */
  get peers(): number {
    return this.#peers.size;
  }

  get isGone(): boolean {
    return this.#isGone;
  }

  async expose(mapping: object): Promise<Exposure> {
    const segment = asSegment(mapping);
    if (this.#isGone) throw new NativeError('the fabric is closed');
    await elapse(this.clock, segment.bytes / registrationRate);
    if (this.#isGone) throw new AbortedError('the fabric was closed');
    if (!this.place.host.has(segment)) throw new NativeError(`${segment.path}: the file has lost its name`);
    const token = this.network.newToken();
    const exposure = new SimulatedExposure(token, segment, () => this.#exposures.delete(token));
    this.#exposures.set(token, exposure);
    return exposure;
  }

  async connect(address: Uint8Array, { name, timeoutMilliseconds, signal }: ConnectOptions) {
    const { links } = this.network;
    const other = this.network.find(address);
    const wait = new TimedWait(this.clock, { what: `connecting to ${name}`, timeoutMilliseconds, signal });
    const path =
      other === undefined
        ? []
        : [...linksBetween(other.place, this.place), ...linksBetween(this.place, other.place)];
    const answer = () => {
      const isConnected = other !== undefined && !other.isGone && !this.#isGone;
      wait.settle(isConnected ? null : new PeerLostError(`${name} does not answer`));
    };
    wait.onEnd(links.whenOpen(path, () => wait.onEnd(this.clock.after(connectMilliseconds, answer))));
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
    this.#exposures.clear();
    for (const peer of this.#peers) {
      peer.stall();
      peer.source.readers.delete(peer);
    }
    this.network.gone(this.#address, this.readers);
  }

  /** The process unmaps a segment. */
  unmapped(path: string): void {
    const { trace } = this.network;
    if (this.exposed.includes(path))
      trace.violated(`${this.name} unmapped ${path} while its peers could read it`);
    for (const peer of this.#peers) {
      if (peer.isReadingInto(path))
        trace.violated(`${this.name} unmapped ${path} while it was reading into it`);
    }
  }

  exposure(token: string): SimulatedExposure | undefined {
    return this.#exposures.get(token);
  }
}
