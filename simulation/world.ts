import type { Envelope, PeerEvent } from '../src/actors/kernel/index.ts';
import type { Instance } from '../src/actors/protocol/instance.ts';
import { DTYPES } from '../src/checkpoint/dtype.ts';
import type { WeightcastError } from '../src/errors.ts';
import { partDigest, type SimulatedCheckpoint } from './checkpoint.ts';
import { SimulatedClock } from './clock.ts';
import { SimulatedCommunicators } from './collective.ts';
import { SimulatedDevice } from './device.ts';
import { SimulatedEngine } from './engine.ts';
import { SimulatedFabrics } from './fabric.ts';
import { SimulatedHost } from './host.ts';
import { keptBytes, type Share } from './kept-parts.ts';
import { LeasedSegments } from './leased-segments.ts';
import { type InFlight, SimulatedNetwork } from './network.ts';
import { SimulatedProcess } from './process.ts';
import { SeededRandom } from './random.ts';
import { Trace } from './trace.ts';
import { SimulatedLinks } from './worker-link.ts';

export interface WorldOptions {
  /** The same seed gives the same run. */
  readonly seed: number;
  readonly worldSize: number;
  readonly ranksPerHost: number;
  /** The ranks of each instance; together all ranks. */
  readonly instances: readonly (readonly number[])[];
  /** How many instances the cluster starts with; the others may join later. Default: all. */
  readonly firstInstances?: number;
  /** Whether ranks of different hosts can broadcast to each other. Default: `cluster`, they can. */
  readonly reach?: 'host' | 'cluster';
  /** Network cards of each host, assigned to its ranks in turn. Default: 1. */
  readonly nicsPerHost?: number;
  /** Bytes per millisecond of each network card, in each direction. Default: 50e6, which is 400 Gbit/s. */
  readonly linkRate?: number;
  /** Bytes of each device. */
  readonly deviceCapacity: number;
  /** How many times longer everything takes on these devices than on a current fast GPU. */
  readonly deviceSlowness: number;
  readonly checkpoints: readonly SimulatedCheckpoint[];
  /** Whether engine workers can report what they installed. */
  readonly reports: boolean;
  /** Whether the workers of an engine divide the model among them, and say which parts they keep. */
  readonly keepsParts?: boolean;
  /** Whether engines are paused while their weights change. */
  readonly pauses: boolean;
  /** Whether every message takes less than a millisecond; otherwise some take seconds. */
  readonly isCalm?: boolean;
  /** How many unused checkpoints' host memory to keep for reuse. */
  readonly spareCheckpoints: number;
  /** How many events to keep as text. */
  readonly keepTrace?: number;
}

const defaultLinkRate = 50e6;
/** Bytes per millisecond of a control connection. */
const networkRate = 1e6;

/** Everything around the actors: time, network, hosts, devices and engines. All that happens follows from the seed. */
export class SimulatedWorld {
  readonly options: WorldOptions;
  /** How many supervisors there were before this one. */
  incarnation = 0;
  /** Instances of the cluster as its owner knows them, by name. */
  readonly joined = new Map<string, Instance>();
  readonly clock = new SimulatedClock();
  readonly random: SeededRandom;
  readonly trace: Trace;
  readonly network: SimulatedNetwork;
  readonly links: SimulatedLinks;
  readonly communicators: SimulatedCommunicators;
  readonly fabrics: SimulatedFabrics;
  readonly leases = new LeasedSegments();
  readonly hosts: readonly SimulatedHost[];
  readonly devices: readonly SimulatedDevice[];
  readonly engines: readonly SimulatedEngine[];
  /** Listeners for every message that any process sends, and for every one that arrives. */
  readonly onSent: ((message: InFlight) => void)[] = [];
  readonly onArrived: ((message: InFlight) => void)[] = [];
  /** How many of the rank processes that are launched next never start. */
  startHangs = 0;
  /** Additional milliseconds by which tests delay a message. */
  extraDelay: (message: InFlight) => number = () => 0;

  readonly #lanes = new Map<string, SeededRandom>();

  constructor(options: WorldOptions) {
    const { seed, worldSize, ranksPerHost, deviceCapacity, deviceSlowness, instances, keepTrace } = options;
    this.options = options;
    this.random = new SeededRandom(seed);
    this.trace = new Trace(this.clock, keepTrace);
    this.links = new SimulatedLinks(this.clock, this.trace);
    this.communicators = new SimulatedCommunicators(this.trace);
    this.fabrics = new SimulatedFabrics({
      clock: this.clock,
      trace: this.trace,
      random: this.random.stream('fabric'),
      linkRate: options.linkRate ?? defaultLinkRate,
      // A reader that has lost its session reads on until it notices; what it reads stays mapped until then.
      mayRead: (reader, source, path) =>
        this.leases.isLeased(source, path) || !this.network.isSession(reader, this.supervisorNode),
    });
    this.network = this.#createNetwork();
    this.hosts = Array.from(
      { length: Math.ceil(worldSize / ranksPerHost) },
      // The supervisor and the users' processes run on the first host.
      (_, host) => new SimulatedHost(`host-${host}`, host === 0),
    );
    for (const { index } of options.checkpoints) {
      const [file] = index.files;
      if (file!.inSharedMemory) for (const host of this.hosts) host.addFile(file!);
    }
    this.devices = Array.from(
      { length: worldSize },
      (_, rank) => new SimulatedDevice(`SIM-${rank}`, deviceCapacity, deviceSlowness, this.trace),
    );
    this.engines = instances.map((ranks, number) => this.#createEngine(`engine-${number}`, ranks));
  }

  get supervisorNode(): string {
    return `supervisor~${this.incarnation + 1}`;
  }

  hostOf(rank: number): SimulatedHost {
    return this.hosts[Math.floor(rank / this.options.ranksPerHost)]!;
  }

  /** Names of each host's network cards. */
  get nics(): string[] {
    return Array.from({ length: this.options.nicsPerHost ?? 1 }, (_, number) => `nic-${number}`);
  }

  /** Cuts off a host's data network without notice; control messages still get through. */
  silence(host: SimulatedHost): void {
    this.trace.add(host.name, 'data network cut off');
    this.fabrics.silence(host, this.nics);
  }

  restore(host: SimulatedHost): void {
    this.fabrics.restore(host, this.nics);
  }

  startProcess(
    node: string,
    peers: readonly string[],
    onCrash: (error: WeightcastError) => void,
    onPeer?: (event: PeerEvent) => void,
  ): SimulatedProcess {
    const { clock, network, trace } = this;
    trace.add(node, 'starts');
    return new SimulatedProcess({
      node,
      peers,
      clock,
      network,
      random: this.random.stream(`actors of ${node}`),
      log: trace.logger(node),
      onCrash,
      ...(onPeer && { onPeer }),
    });
  }

  #createNetwork(): SimulatedNetwork {
    return new SimulatedNetwork({
      clock: this.clock,
      delay: (message) => this.#delay(message) + this.extraDelay(message),
      onSent: (message) => {
        for (const listener of this.onSent) listener(message);
      },
      onArrived: (message) => {
        this.leases.arrived(message);
        this.trace.add(message.to, `${describeEnvelope(message.envelope)} from ${message.from}`);
        for (const listener of this.onArrived) listener(message);
      },
    });
  }

  #createEngine(name: string, ranks: readonly number[]): SimulatedEngine {
    const { links, clock, trace } = this;
    return new SimulatedEngine({
      name,
      devices: ranks.map((rank) => this.devices[rank]!),
      links,
      clock,
      trace,
      reports: this.options.reports,
      pauses: this.options.pauses,
      keepsParts: this.options.keepsParts ?? false,
      isComplete: (version, loaded, share) => this.#isComplete(version, loaded, share),
    });
  }

  #isComplete(version: string, loaded: ReadonlyMap<string, bigint>, share: Share | null): boolean {
    const digest = version.slice(version.lastIndexOf('@') + 1);
    const checkpoint = this.options.checkpoints.find((candidate) => candidate.digest === digest);
    if (checkpoint === undefined) return false;
    const { names, dtypes, dimensions } = checkpoint.index;
    const isRight = (name: string, row: number) => {
      const tensor = { name, dtype: DTYPES[dtypes[row]!]!.name, shape: [dimensions[row]!] };
      const kept = keptBytes(tensor, share);
      // What it keeps nothing of need not be sent to it.
      const found = loaded.get(name) ?? (kept.cut === 'nothing' ? 0n : null);
      return found === partDigest(checkpoint, row, kept);
    };
    return names.every(isRight) && [...loaded.keys()].every((name) => checkpoint.digests.has(name));
  }

  /** Milliseconds: mostly short, now and then long enough for much else to happen meanwhile. */
  #delay({ from, to, bytes }: InFlight): number {
    const key = `${from} to ${to}`;
    let random = this.#lanes.get(key);
    if (random === undefined) {
      random = this.random.stream(key);
      this.#lanes.set(key, random);
    }
    const roll = this.options.isCalm ? 1 : random.next();
    const longest = roll < 0.003 ? 3_000 : roll < 0.03 ? 60 : 0.5;
    return 0.05 + random.between(0, longest) + bytes / networkRate;
  }
}

function describeEnvelope(envelope: Envelope): string {
  switch (envelope.kind) {
    case 'tell':
    case 'ask': {
      const { type, epoch } = envelope.body as { type?: string; epoch?: number };
      return `${envelope.kind} ${type}${epoch === undefined ? '' : ` of epoch ${epoch}`}`;
    }
    case 'failure':
      return `failure ${envelope.error.code} ${envelope.error.message}`;
    case 'down':
      return `down ${envelope.target.name}: ${envelope.reason}`;
    default:
      return envelope.kind;
  }
}
