import type { SimulatedCluster } from './cluster.ts';
import type { SimulatedDevice } from './device.ts';
import type { SimulatedEngine } from './engine.ts';
import { Forger } from './forger.ts';
import type { SeededRandom } from './random.ts';
import type { LoadFault } from './worker.ts';

/** Milliseconds after which a dead engine is restarted, and one that hangs. */
const engineRestart = [200, 5_000] as const;
const hungEngineRestart = [20_000, 90_000] as const;
/** The longest between the two ends of a session noticing that it is lost: the silence limit of the real transport. */
const noticeMilliseconds = 10_000;

/** The reason of the fault `cancel`. */
export const cancelReason = 'the user changed their mind';

export const faultKinds = [
  'kill a rank',
  'kill the ranks of a host',
  'lose a session',
  'kill an engine',
  'restart an engine',
  'engine answers with an error',
  'engine never answers',
  'engine refuses to pause',
  'engine refuses to resume',
  'worker refuses a bucket',
  'worker hangs on a bucket',
  'worker dies on a bucket',
  'worker installs wrong bytes',
  'model loads right bytes wrongly',
  'engine does not answer prompts',
  'slow device',
  'failing allocation',
  'memory pressure',
  'failing upload',
  'failing worker link',
  'failing load',
  'silent network',
  'cancel',
  'forged messages',
  'a rank hangs at its start',
  'a rank hangs at its end',
  'an actor of the supervisor crashes',
  'the supervisor dies',
] as const;
export type FaultKind = (typeof faultKinds)[number];

/** What a fault may hit, chosen at random for each fault. */
interface Target {
  readonly engine: SimulatedEngine;
  readonly device: SimulatedDevice;
  readonly random: SeededRandom;
}

/** Injects faults into a cluster; what each fault hits follows from the random numbers given. */
export class FaultInjector {
  readonly #cluster: SimulatedCluster;
  readonly forger: Forger;
  #count = 0;
  #healed = false;

  readonly #inject: Readonly<Record<FaultKind, (target: Target) => unknown>> = {
    'kill a rank': ({ random }) => this.#randomRank(random)?.kill(),
    'kill the ranks of a host': ({ random }) => this.#killHost(random),
    'lose a session': ({ random }) => this.#loseSession(random),
    'kill an engine': ({ engine, random }) => {
      engine.kill();
      this.#restartLater(engine, engineRestart, random);
    },
    'restart an engine': ({ engine }) => {
      // Between updates, and so fast that nobody has seen it down.
      const isIdle = engine.isUp && !engine.isPaused && !engine.isPausing;
      if (isIdle && engine.workers.every(({ isBusy }) => !isBusy)) engine.restart();
    },
    'engine answers with an error': ({ engine }) => {
      engine.nextCall = 'error';
    },
    'engine never answers': ({ engine }) => {
      engine.nextCall = 'silence';
    },
    'engine refuses to pause': ({ engine, random }) => {
      engine.nextPause = random.pick(['error', 'silence', 'late']);
    },
    'engine refuses to resume': ({ engine, random }) => {
      engine.nextResume = random.pick(['error', 'silence']);
    },
    'worker refuses a bucket': ({ engine, random }) => failNextLoad(engine, 'refuse', random),
    'worker hangs on a bucket': ({ engine, random }) => {
      failNextLoad(engine, 'hang', random);
      this.#later(random.between(...hungEngineRestart), () => engine.restart());
    },
    'worker dies on a bucket': ({ engine, random }) => {
      failNextLoad(engine, 'die', random);
      this.#restartLater(engine, engineRestart, random);
    },
    'worker installs wrong bytes': ({ engine, random }) => {
      // Only where verification can detect it.
      if (this.#cluster.world.options.reports) failNextLoad(engine, 'corrupt', random);
    },
    'model loads right bytes wrongly': ({ engine, random }) => failNextLoad(engine, 'misload', random),
    'engine does not answer prompts': ({ engine, random }) => {
      engine.nextAnswers = random.pick(['error', 'silence']);
    },
    'slow device': ({ device, random }) => this.#slowDown(device, random),
    'failing allocation': ({ device, random }) => {
      device.allocationFailures += random.whole(1, 3);
    },
    'memory pressure': ({ device, random }) => this.#takeMemory(device, random),
    'failing upload': ({ device }) => {
      device.uploadFailures += 1;
    },
    'failing worker link': () => {
      this.#cluster.world.links.bindFailures += 1;
    },
    'failing load': ({ random }) => {
      random.pick(this.#cluster.world.hosts).loadFailures += 1;
    },
    'silent network': ({ random }) => this.#silenceHost(random),
    cancel: () => this.#cluster.users[0]?.cancel(cancelReason),
    'forged messages': ({ random }) => this.forger.forge(random),
    'a rank hangs at its start': ({ random }) => {
      this.#cluster.world.startHangs += 1;
      this.#randomRank(random)?.kill();
    },
    'a rank hangs at its end': ({ random }) => {
      const rank = this.#randomRank(random);
      if (rank !== undefined) rank.hangsAtEnd = true;
    },
    'an actor of the supervisor crashes': ({ random }) => this.#crashActor(random),
    'the supervisor dies': () => this.#cluster.killSupervisor(),
  };

  constructor(cluster: SimulatedCluster) {
    this.#cluster = cluster;
    this.forger = new Forger(cluster);
  }

  get count(): number {
    return this.#count;
  }

  inject(kind: FaultKind, random: SeededRandom): void {
    const { world } = this.#cluster;
    this.#count += 1;
    world.trace.add('FAULT', kind);
    const engine = random.pick(world.engines);
    const device = random.pick(world.devices);
    this.#inject[kind]({ engine, device, random });
  }

  /** Undoes every fault that does not pass on its own. */
  heal(): void {
    const { world } = this.#cluster;
    world.trace.add('FAULT', 'all faults are healed');
    this.#healed = true;
    for (const device of world.devices) {
      device.slowdown = 1;
      device.foreignBytes = 0;
      device.allocationFailures = 0;
      device.uploadFailures = 0;
    }
    world.startHangs = 0;
    world.links.bindFailures = 0;
    for (const host of world.hosts) host.loadFailures = 0;
    world.fabrics.links.restoreAll();
    for (const engine of world.engines) {
      const isUnwell =
        !engine.isUp || engine.workers.some(({ isBusy, nextLoad }) => isBusy || nextLoad !== null);
      if (isUnwell) engine.restart();
      engine.nextCall = null;
      engine.nextPause = null;
      engine.nextResume = null;
      engine.nextAnswers = null;
    }
  }

  #later(milliseconds: number, action: () => void): void {
    this.#cluster.world.clock.after(milliseconds, () => {
      if (!this.#healed) action();
    });
  }

  #restartLater(engine: SimulatedEngine, range: readonly [number, number], random: SeededRandom): void {
    this.#later(random.between(...range), () => {
      if (!engine.isUp) engine.restart();
    });
  }

  #randomRank(random: SeededRandom) {
    const { ranks, world } = this.#cluster;
    return ranks.get(random.whole(0, world.devices.length - 1));
  }

  /** All but the supervisor itself: a bridge, the planner, the swarm. */
  #crashActor(random: SeededRandom): void {
    const { system } = this.#cluster.supervisor;
    const names = system.names.filter((name) => name.startsWith('supervisor/'));
    if (names.length > 0) system.crash(random.pick(names), new Error('an injected crash'));
  }

  #killHost(random: SeededRandom): void {
    const { world, ranks } = this.#cluster;
    const host = random.pick(world.hosts);
    for (const process of ranks.values()) if (world.hostOf(process.rank) === host) process.kill();
  }

  #slowDown(device: SimulatedDevice, random: SeededRandom): void {
    device.slowdown = random.pick([3, 30, 300]);
    this.#cluster.world.clock.after(random.between(1, 2_000), () => {
      device.slowdown = 1;
    });
  }

  #takeMemory(device: SimulatedDevice, random: SeededRandom): void {
    const taken = Math.floor(device.free * random.between(0.2, 1));
    device.foreignBytes += taken;
    this.#cluster.world.clock.after(random.between(1, random.pick([20, 500, 5_000])), () => {
      device.foreignBytes = Math.max(0, device.foreignBytes - taken);
    });
  }

  #silenceHost(random: SeededRandom): void {
    const { world } = this.#cluster;
    const host = random.pick(world.hosts);
    world.silence(host);
    const milliseconds = random.between(1, random.pick([100, 5_000, 90_000]));
    world.clock.after(milliseconds, () => world.restore(host));
  }

  /** Drops the connection between two live processes; its two ends notice one after the other. */
  #loseSession(random: SeededRandom): void {
    const { network, clock, supervisorNode } = this.#cluster.world;
    const node = this.#randomRank(random)?.process?.node;
    if (node === undefined || !network.isSession(node, supervisorNode)) return;
    const [first, second] = random.shuffled([
      { at: supervisorNode, of: node },
      { at: node, of: supervisorNode },
    ]);
    network.endSession(first!.at, first!.of, 'its connection is gone');
    clock.after(random.between(0, noticeMilliseconds), () =>
      network.endSession(second!.at, second!.of, 'its connection is gone'),
    );
  }
}

function failNextLoad(engine: SimulatedEngine, fault: LoadFault, random: SeededRandom): void {
  random.pick(engine.workers).nextLoad = fault;
}
