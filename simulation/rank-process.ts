import type { PeerEvent } from '../src/actors/kernel/index.ts';
import type { SupervisorMessage } from '../src/actors/protocol/supervisor.ts';
import { type RankInbox, rankSpawnOptions } from '../src/actors/rank/inbox.ts';
import type { RankPorts } from '../src/actors/rank/ports.ts';
import { RankActor } from '../src/actors/rank/rank.ts';
import type { LaunchedRank } from '../src/actors/supervisor/ports.ts';
import { NativeError, WorkerLinkError } from '../src/errors.ts';
import type { Fabric } from '../src/native-bridge/fabric.ts';
import { elapse } from './clock.ts';
import type { SimulatedFabric } from './fabric.ts';
import type { Place } from './fabric-place.ts';
import { type SimulatedHost, segmentDirectory } from './host.ts';
import type { SimulatedProcess } from './process.ts';
import type { SeededRandom } from './random.ts';
import type { LinkOptions, SimulatedLink } from './worker-link.ts';
import type { SimulatedWorld } from './world.ts';

/** How long a process takes from its launch to its first message. */
const startMilliseconds = [20, 120] as const;
/** The longest that the parent needs to notice that a process is gone. */
const exitMilliseconds = 5;
/** As in processes/rank-process.ts, and in its parent. */
const stopMilliseconds = 20_000;
const graceMilliseconds = 25_000;
const bindMilliseconds = 0.1;
/** How long it looks for another supervisor when its own has died. */
const orphanMilliseconds = 30_000;

/** The process of one rank, from its launch until its parent notices that it is gone. */
export class SimulatedRankProcess implements LaunchedRank {
  readonly rank: number;
  readonly node: string;
  readonly exited: Promise<string>;
  readonly #world: SimulatedWorld;
  readonly #random: SeededRandom;
  readonly #onExit: () => void;
  #resolveExited: (reason: string) => void = () => {};
  #process: SimulatedProcess | null = null;
  #memory: ReturnType<SimulatedHost['join']> | null = null;
  #cancelStart: () => void = () => {};
  #exiting = false;
  /** The node that it takes its orders from; null while it looks for another supervisor. */
  #supervisor: string | null = null;
  #cancelOrphan: () => void = () => {};
  /** It has started, and its supervisor has died since its launch. */
  isSurvivor = false;
  /** It never gets as far as its first message, and does not end when it is asked to. */
  readonly hangsAtStart: boolean;
  /** From now on it does not end when it is asked to. */
  hangsAtEnd = false;

  constructor(world: SimulatedWorld, rank: number, life: number, onExit: () => void) {
    this.rank = rank;
    this.node = `rank-${rank}~${life}`;
    this.#world = world;
    this.#random = world.random.stream(this.node);
    this.#onExit = onExit;
    this.hangsAtStart = world.startHangs > 0;
    if (this.hangsAtStart) world.startHangs -= 1;
    this.exited = new Promise((resolve) => {
      this.#resolveExited = resolve;
    });
    const delay = this.#random.between(...startMilliseconds);
    if (!this.hangsAtStart) this.#cancelStart = world.clock.after(delay, () => this.#start(life));
  }

  /** Null before it has started and after it has ended. */
  get process(): SimulatedProcess | null {
    return this.#process?.isAlive ? this.#process : null;
  }

  kill(reason = 'SIGKILL'): void {
    if (this.#exiting) return;
    this.#cancelStart();
    this.#process?.kill();
    this.#memory?.vanish();
    this.#exit(reason);
  }

  async stop(grace = graceMilliseconds): Promise<void> {
    if (this.#process === null && !this.hangsAtStart) this.kill('exit code 0');
    const cancel = this.#world.clock.after(grace, () => this.kill());
    await this.#end();
    await this.exited;
    cancel();
  }

  #start(life: number): void {
    const world = this.#world;
    const node = world.supervisorNode;
    if (world.network.find(node) !== undefined) this.#supervisor = node;
    const onPeer = (event: PeerEvent) => this.#peerChanged(event);
    this.#process = world.startProcess(this.node, [node], () => this.#end(), onPeer);
    this.#memory = world.hostOf(this.rank).join();
    const { system } = this.#process;
    const supervisor = system.wellKnown<SupervisorMessage>(node, 'supervisor');
    const ports = this.#ports(this.#process, life);
    system.spawn('rank', () => new RankActor(ports, supervisor), rankSpawnOptions);
  }

  /** Its standard input has ended, without a word. */
  supervisorDied(): void {
    const world = this.#world;
    this.isSurvivor = true;
    if (this.hangsAtStart || this.#exiting) return;
    const isLooking = this.#supervisor === null && this.#process !== null;
    this.#supervisor = null;
    this.#cancelOrphan();
    this.#cancelOrphan = world.clock.after(orphanMilliseconds, () => void this.#end());
    const process = this.process;
    process?.system.tell(process.system.wellKnown<RankInbox>(this.node, 'rank'), { type: 'supervisor-died' });
    if (!isLooking) this.#findSupervisor();
  }

  /** It looks for one about every second. */
  #findSupervisor(): void {
    const { clock, network, supervisorNode } = this.#world;
    clock.after(this.#random.between(0, 1_000), () => {
      if (this.#exiting || this.#supervisor !== null) return;
      if (this.process !== null) network.connect(this.node, supervisorNode);
      this.#findSupervisor();
    });
  }

  #peerChanged({ node, state }: PeerEvent): void {
    const process = this.process;
    // A real rank has connections to nobody else.
    if (state !== 'up' || node !== this.#world.supervisorNode) return;
    if (process === null || this.#supervisor !== null) return;
    this.#supervisor = node;
    this.#cancelOrphan();
    const supervisor = process.system.wellKnown<SupervisorMessage>(node, 'supervisor');
    const self = process.system.wellKnown<RankInbox>(this.node, 'rank');
    process.system.tell(self, { type: 'supervisor-found', supervisor });
  }

  async #end(): Promise<void> {
    this.#cancelOrphan();
    if (this.hangsAtStart || this.hangsAtEnd) return;
    await this.#process?.stop(stopMilliseconds);
    if (this.#exiting) return;
    this.#memory?.leave();
    this.#exit('exit code 0');
  }

  #exit(reason: string): void {
    if (this.#exiting) return;
    this.#exiting = true;
    const world = this.#world;
    world.trace.add(this.node, `exits: ${reason}`);
    world.clock.after(this.#random.between(0, exitMilliseconds), () => {
      this.#onExit();
      // Whichever supervisor it has.
      for (const peer of world.network.nodes) world.network.endSession(peer, this.node, reason);
      this.#resolveExited(reason);
    });
  }

  #ports(process: SimulatedProcess, life: number): RankPorts {
    const { rank } = this;
    const { communicators, nics, options } = this.#world;
    const { clock } = process;
    const simulated = this.#world.devices[rank]!;
    const host = this.#world.hostOf(rank);
    const device = simulated.open(clock);
    process.whenGone(() => device.close());
    const nic = nics[rank % nics.length]!;
    let fabric: SimulatedFabric | null = null;
    const openFabric = (secret: string | null): Fabric => {
      if (secret !== null) throw new NativeError('the simulation has no second cluster');
      fabric ??= this.#openFabric(process, { host, nic });
      return fabric;
    };
    return {
      rank,
      host: host.name,
      directory: segmentDirectory,
      directoryId: host.memory,
      pid: life,
      device,
      segments: host.open(clock, (path) => fabric?.unmapped(path)),
      documents: host.documents,
      nics: [nic],
      collectiveScope: options.reach ?? 'cluster',
      fabric: openFabric,
      end: () => void this.#end(),
      close: () => fabric?.close(),
      createCommunicator: () => ({ id: new Uint8Array(), leastBucketBytes: 0 }),
      openCollective: async ({ number: communicator }, ranks) => {
        const slowness = () => simulated.slowness;
        const member = communicators.join({ communicator, ranks, rank, clock, slowness });
        process.whenGone(() => member.vanish());
        return member;
      },
      bindWorkerLink: (order) => this.#bindWorkerLink(process, { deviceUuid: device.uuid, ...order }),
    };
  }

  #openFabric(process: SimulatedProcess, place: Place): SimulatedFabric {
    const fabric = this.#world.fabrics.open(this.node, place, process.clock);
    process.whenGone(() => fabric.vanish());
    return fabric;
  }

  async #bindWorkerLink(
    process: SimulatedProcess,
    order: Omit<LinkOptions, 'clock'>,
  ): Promise<SimulatedLink> {
    const { links } = this.#world;
    const { clock } = process;
    await elapse(clock, bindMilliseconds);
    if (links.bindFailures > 0) {
      links.bindFailures -= 1;
      throw new WorkerLinkError(`cannot bind a worker link for ${order.deviceUuid}: address in use`);
    }
    const link = links.bind({ ...order, clock });
    process.whenGone(() => link.vanish());
    return link;
  }
}
