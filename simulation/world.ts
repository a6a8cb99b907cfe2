import type { Envelope } from '../src/actors/kernel/index.ts';
import type { WeightcastError } from '../src/errors.ts';
import type { SimulatedCheckpoint } from './checkpoint.ts';
import { SimulatedClock } from './clock.ts';
import { SimulatedCommunicators } from './collective.ts';
import { SimulatedDevice } from './device.ts';
import { SimulatedEngine } from './engine.ts';
import { SimulatedFabrics } from './fabric.ts';
import { SimulatedHost } from './host.ts';
import { LentSegments } from './lent-segments.ts';
import { type Passage, SimulatedNetwork } from './network.ts';
import { SimulatedProcess } from './process.ts';
import { SeededRandom } from './random.ts';
import { Trace } from './trace.ts';
import { SimulatedLinks } from './worker-link.ts';

export interface WorldOptions {
  /** The same seed makes the same run. */
  readonly seed: number;
  readonly worldSize: number;
  readonly ranksPerHost: number;
  /** Ranks of each instance; together all ranks. */
  readonly instances: readonly (readonly number[])[];
  /** How many of them are there from the beginning; the others may join. All unless given. */
  readonly firstInstances?: number;
  /** Whether ranks of different hosts can broadcast to each other. They can unless told otherwise. */
  readonly reach?: 'host' | 'cluster';
  /** Network cards of each host, shared by its ranks in turn: one unless given. */
  readonly nicsPerHost?: number;
  /** Bytes a millisecond of each network card, in each direction: about what 400 Gbit/s do unless given. */
  readonly linkRate?: number;
  /** Bytes of each device. */
  readonly deviceCapacity: number;
  /** How many times longer everything takes on these devices than on fast ones of today. */
  readonly deviceSlowness: number;
  readonly checkpoints: readonly SimulatedCheckpoint[];
  /** Whether engine workers can say what they installed. */
  readonly reports: boolean;
  /** Whether engines are paused while their weights change. */
  readonly pauses: boolean;
  /** Whether messages take half a millisecond at most; otherwise some take seconds. */
  readonly isCalm?: boolean;
  /** Checkpoints whose host memory is kept for the next ones. */
  readonly spareCheckpoints: number;
  /** Events to keep for reading. */
  readonly keepTrace?: number;
}

const usualLinkRate = 50e6;
/** Bytes a millisecond of a control connection. */
const networkRate = 1e6;

/** Everything around the actors: time, network, hosts, devices, engines. What happens in it follows from the seed. */
export class SimulatedWorld {
  readonly options: WorldOptions;
  readonly supervisorNode = 'supervisor~1';
  readonly clock = new SimulatedClock();
  readonly random: SeededRandom;
  readonly trace: Trace;
  readonly network: SimulatedNetwork;
  readonly links: SimulatedLinks;
  readonly communicators: SimulatedCommunicators;
  readonly fabrics: SimulatedFabrics;
  readonly lent = new LentSegments();
  readonly hosts: readonly SimulatedHost[];
  readonly devices: readonly SimulatedDevice[];
  readonly engines: readonly SimulatedEngine[];
  /** Called with everything that any process sends, and with what arrives. */
  readonly onSent: ((passage: Passage) => void)[] = [];
  readonly onArrived: ((passage: Passage) => void)[] = [];
  /** Milliseconds that a message is held up, for those who want it late. */
  holdUp: (passage: Passage) => number = () => 0;

  readonly #lanes = new Map<string, SeededRandom>();

  constructor(options: WorldOptions) {
    const {
      seed,
      worldSize,
      ranksPerHost,
      deviceCapacity,
      deviceSlowness,
      checkpoints,
      instances,
      keepTrace,
    } = options;
    this.options = options;
    this.random = new SeededRandom(seed);
    this.trace = new Trace(this.clock, keepTrace);
    this.links = new SimulatedLinks(this.clock, this.trace);
    this.communicators = new SimulatedCommunicators(this.trace);
    this.fabrics = new SimulatedFabrics({
      clock: this.clock,
      trace: this.trace,
      random: this.random.stream('fabric'),
      linkRate: options.linkRate ?? usualLinkRate,
      // Who has lost its session reads on until it notices; what it reads stays mapped until then.
      mayRead: (reader, source, path) =>
        this.lent.isLent(source, path) || !this.network.isSession(reader, this.supervisorNode),
    });
    this.network = new SimulatedNetwork({
      clock: this.clock,
      delay: (passage) => this.#delay(passage) + this.holdUp(passage),
      onSent: (passage) => {
        for (const look of this.onSent) look(passage);
      },
      onArrived: (passage) => {
        this.lent.arrived(passage);
        this.trace.add(passage.to, `${describeEnvelope(passage.envelope)} from ${passage.from}`);
        for (const look of this.onArrived) look(passage);
      },
    });
    this.hosts = Array.from(
      { length: Math.ceil(worldSize / ranksPerHost) },
      // The supervisor and whoever uses the cluster are on the first one.
      (_, host) => new SimulatedHost(`host-${host}`, host === 0),
    );
    for (const { index } of checkpoints) {
      const [file] = index.files;
      if (file!.inSharedMemory) for (const host of this.hosts) host.addFile(file!.path, file!.bytes);
    }
    this.devices = Array.from(
      { length: worldSize },
      (_, rank) => new SimulatedDevice(`SIM-${rank}`, deviceCapacity, deviceSlowness, this.trace),
    );
    this.engines = instances.map((ranks, number) => this.#engine(`engine-${number}`, ranks));
  }

  hostOf(rank: number): SimulatedHost {
    return this.hosts[Math.floor(rank / this.options.ranksPerHost)]!;
  }

  /** Names of the network cards of a host. */
  get nics(): string[] {
    return Array.from({ length: this.options.nicsPerHost ?? 1 }, (_, number) => `nic-${number}`);
  }

  /** Cuts a host off from the data of others, while messages still get through; nobody is told. */
  silence(host: SimulatedHost): void {
    this.trace.add(host.name, 'is cut off');
    this.fabrics.silence(host, this.nics);
  }

  restore(host: SimulatedHost): void {
    this.fabrics.restore(host, this.nics);
  }

  startProcess(
    node: string,
    peers: readonly string[],
    onCrash: (error: WeightcastError) => void,
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
    });
  }

  #engine(name: string, ranks: readonly number[]): SimulatedEngine {
    const { links, clock, trace } = this;
    return new SimulatedEngine({
      name,
      devices: ranks.map((rank) => this.devices[rank]!),
      links,
      clock,
      trace,
      reports: this.options.reports,
      pauses: this.options.pauses,
      isWhole: (version, loaded) => this.#isWhole(version, loaded),
    });
  }

  #isWhole(version: string, loaded: ReadonlyMap<string, bigint>): boolean {
    const digest = version.slice(version.lastIndexOf('@') + 1);
    const checkpoint = this.options.checkpoints.find((candidate) => candidate.digest === digest);
    if (checkpoint === undefined || checkpoint.digests.size !== loaded.size) return false;
    for (const [name, expected] of checkpoint.digests) if (loaded.get(name) !== expected) return false;
    return true;
  }

  /** Mostly short; now and then long enough for much else to happen meanwhile. */
  #delay({ from, to, bytes }: Passage): number {
    const key = `${from} to ${to}`;
    let random = this.#lanes.get(key);
    if (random === undefined) {
      random = this.random.stream(key);
      this.#lanes.set(key, random);
    }
    const luck = this.options.isCalm ? 1 : random.next();
    const longest = luck < 0.003 ? 3_000 : luck < 0.03 ? 60 : 0.5;
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
