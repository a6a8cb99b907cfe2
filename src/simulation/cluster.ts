import { type ActorRef, ActorSystem } from '../actors/kernel/index.ts';
import { anyOf, type RankMessage, type SupervisorMessage, toRank, toSupervisor } from '../actors/messages.ts';
import { RankActor } from '../actors/rank.ts';
import type { RankPorts } from '../actors/rank-ports.ts';
import { SupervisorActor } from '../actors/supervisor.ts';
import type { LaunchedRank } from '../actors/supervisor-ports.ts';
import { decodeManifest } from '../checkpoint/manifest.ts';
import type { SegmentStore } from '../checkpoint/segment-store.ts';
import type { CheckpointIndex } from '../checkpoint/source.ts';
import type { Logger, Random } from '../ports.ts';
import { SimulatedClock } from './clock.ts';
import { SimulatedCommunicators } from './collective.ts';
import { elapse, SimulatedDevice } from './device.ts';
import { SimulatedEngine, SimulatedLinks } from './engine.ts';
import { SimulatedNetwork } from './network.ts';

export interface SimulationOptions {
  readonly worldSize: number;
  /** Ranks of each instance; together all ranks. */
  readonly instances: readonly (readonly number[])[];
  readonly deviceCapacity: number;
  readonly checkpoint: CheckpointIndex;
  /** The same seed makes the same run. */
  readonly seed: number;
}

const silent: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** A whole cluster in one process under virtual time: the actors are the real ones, the world is not. */
export class SimulatedCluster {
  readonly clock = new SimulatedClock();
  readonly network = new SimulatedNetwork();
  readonly links = new SimulatedLinks(this.clock);
  readonly devices: SimulatedDevice[];
  readonly engines: SimulatedEngine[];
  readonly random: Random;
  readonly system: ActorSystem;
  readonly supervisor: ActorRef<SupervisorMessage>;
  readonly #communicators = new SimulatedCommunicators(this.clock);
  readonly #running = new Map<number, { readonly node: string; exit(reason: string): void }>();
  #lives = 0;

  constructor(options: SimulationOptions) {
    this.random = seededRandom(options.seed);
    this.devices = Array.from({ length: options.worldSize }, (_, rank) => {
      return new SimulatedDevice(`SIM-${rank}`, options.deviceCapacity, this.clock);
    });
    this.engines = options.instances.map((_, number) => new SimulatedEngine(`engine-${number}`, this.links));
    this.system = this.#makeSystem('supervisor~1');
    const instances = options.instances.map((ranks, number) => ({
      name: `engine-${number}`,
      endpoint: `engine-${number}`,
      ranks,
    }));
    const ports = {
      launchRank: (rank: number) => this.#launch(rank),
      engineClient: ({ name }: { name: string }) => this.engines.find(({ endpoint }) => endpoint === name)!,
      segmentPrefix: (registration: number) => `/sim/checkpoint-${registration}-`,
      openCheckpoint: async () => options.checkpoint,
    };
    this.supervisor = this.system.spawn<SupervisorMessage>(
      'supervisor',
      () => new SupervisorActor({ worldSize: options.worldSize, instances }, ports),
      { accepts: anyOf(toSupervisor) as never },
    );
  }

  /** The rank's process vanishes, and with it what it had of its device. */
  kill(rank: number): void {
    const process = this.#running.get(rank);
    if (process === undefined) return;
    this.#running.delete(rank);
    this.network.kill(process.node);
    this.devices[rank]!.used = 0;
    process.exit('SIGKILL');
  }

  async stop(): Promise<void> {
    const stopped = this.system.stop(120_000);
    await this.clock.advance(60_000);
    await stopped;
  }

  #makeSystem(node: string): ActorSystem {
    return ActorSystem.create({
      clock: this.clock,
      random: this.random,
      log: silent,
      transport: this.network.join(node),
    });
  }

  #launch(rank: number): LaunchedRank {
    this.#lives += 1;
    const node = `rank-${rank}~${this.#lives}`;
    const system = this.#makeSystem(node);
    let exit: (reason: string) => void = () => {};
    const exited = new Promise<string>((resolve) => {
      exit = resolve;
    });
    this.#running.set(rank, { node, exit });
    const ports = this.#rankPorts(rank);
    const supervisor = system.wellKnown<SupervisorMessage>('supervisor~1', 'supervisor');
    system.spawn<RankMessage>('rank', () => new RankActor(ports, supervisor), {
      accepts: anyOf(toRank) as never,
      isSignal: ({ type }) => type === 'abort',
    });
    const stop = async () => {
      await system.stop(30_000);
      this.network.leave(node);
      exit('exit code 0');
    };
    return { exited, stop };
  }

  #rankPorts(rank: number): RankPorts {
    const device = this.devices[rank]!;
    return {
      rank,
      host: 'sim',
      pid: rank + 1,
      device,
      segments: this.#segments(),
      createCommunicator: () => new Uint8Array(),
      openCollective: async ({ number }, ranks) => this.#communicators.open(number, ranks.length),
      bindWorkerLink: async () => this.links.bind(device.uuid),
    };
  }

  #segments(): SegmentStore {
    return {
      attach: (path) => ({ path }) as never,
      load: (order) => {
        const { names, bytes } = decodeManifest(order.manifest);
        const totalBytes = bytes.reduce((sum, size) => sum + size, 0);
        const digests = elapse(this.clock, 50).then(() =>
          BigUint64Array.from(names, (_, row) => BigInt(row + 1)),
        );
        return { totalBytes, doneBytes: () => 0, digests };
      },
      forget: () => {},
      close: () => {},
    };
  }
}

/** mulberry32: small, seeded, good enough to choose faults by. */
function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return {
    next() {
      state = (state + 0x6d2b_79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    },
  };
}
