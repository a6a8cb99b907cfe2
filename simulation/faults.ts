import type { SimulatedCluster } from './cluster.ts';
import type { SimulatedEngine } from './engine.ts';
import { Forger } from './forger.ts';
import type { SeededRandom } from './random.ts';
import type { LoadFault } from './worker.ts';

/** Milliseconds after which someone starts a dead engine again, and one that hangs. */
const engineRestart = [200, 5_000] as const;
const hungEngineRestart = [20_000, 90_000] as const;
/** How far apart the two ends of a session may notice that it is lost: the real transport's silence limit. */
const noticeMilliseconds = 10_000;

/** What a user says who cancels. */
export const cancelReason = 'the user changed their mind';

export const faultKinds = [
  'kill a rank',
  'kill the ranks of a host',
  'lose a session',
  'kill an engine',
  'engine answers with an error',
  'engine never answers',
  'engine refuses to pause',
  'worker refuses a bucket',
  'worker hangs on a bucket',
  'worker dies on a bucket',
  'worker installs wrong bytes',
  'slow device',
  'failing allocation',
  'memory pressure',
  'failing upload',
  'failing worker link',
  'failing load',
  'silent network',
  'cancel',
  'forged messages',
] as const;
export type FaultKind = (typeof faultKinds)[number];

/** Does harm to a cluster; what is hit follows from the random numbers given. */
export class FaultInjector {
  readonly #cluster: SimulatedCluster;
  readonly forger: Forger;
  #count = 0;
  #healed = false;

  constructor(cluster: SimulatedCluster) {
    this.#cluster = cluster;
    this.forger = new Forger(cluster);
  }

  get count(): number {
    return this.#count;
  }

  inject(kind: FaultKind, random: SeededRandom): void {
    const { world } = this.#cluster;
    const { clock } = world;
    this.#count += 1;
    world.trace.add('FAULT', kind);
    const engine = random.pick(world.engines);
    const device = random.pick(world.devices);
    switch (kind) {
      case 'kill a rank':
        return this.#cluster.ranks.get(random.whole(0, world.devices.length - 1))?.kill();
      case 'kill the ranks of a host':
        return this.#killHost(random);
      case 'lose a session':
        return this.#loseSession(random);
      case 'kill an engine':
        return this.#killEngine(engine, random);
      case 'engine answers with an error':
        engine.nextCall = 'error';
        return;
      case 'engine never answers':
        engine.nextCall = 'silence';
        return;
      case 'engine refuses to pause':
        engine.nextPause = random.pick(['error', 'silence']);
        return;
      case 'worker refuses a bucket':
        return this.#spoilLoad(engine, 'refuse', random);
      case 'worker hangs on a bucket':
        this.#spoilLoad(engine, 'hang', random);
        this.#later(random.between(...hungEngineRestart), () => engine.restart());
        return;
      case 'worker dies on a bucket':
        this.#spoilLoad(engine, 'die', random);
        this.#later(random.between(...engineRestart), () => engine.isUp || engine.restart());
        return;
      case 'worker installs wrong bytes':
        // Only where somebody could find out.
        if (world.options.reports) this.#spoilLoad(engine, 'corrupt', random);
        return;
      case 'slow device':
        device.hindrance = random.pick([3, 30, 300]);
        clock.after(random.between(1, 2_000), () => {
          device.hindrance = 1;
        });
        return;
      case 'failing allocation':
        device.refusals += random.whole(1, 3);
        return;
      case 'memory pressure': {
        const taken = Math.floor(device.free * random.between(0.2, 1));
        device.others += taken;
        clock.after(random.between(1, random.pick([20, 500, 5_000])), () => {
          device.others = Math.max(0, device.others - taken);
        });
        return;
      }
      case 'failing upload':
        device.uploadFailures += 1;
        return;
      case 'failing worker link':
        world.links.failures += 1;
        return;
      case 'failing load':
        random.pick(world.hosts).loadFailures += 1;
        return;
      case 'silent network': {
        const host = random.pick(world.hosts);
        world.silence(host);
        clock.after(random.between(1, random.pick([100, 5_000, 90_000])), () => world.restore(host));
        return;
      }
      case 'cancel':
        this.#cluster.users[0]?.cancel(cancelReason);
        return;
      case 'forged messages':
        return this.forger.forge(random);
    }
  }

  /** Undoes all harm that does not pass by itself. */
  heal(): void {
    const { world } = this.#cluster;
    world.trace.add('FAULT', 'all is healed');
    this.#healed = true;
    for (const device of world.devices) {
      device.hindrance = 1;
      device.others = 0;
      device.refusals = 0;
      device.uploadFailures = 0;
    }
    world.links.failures = 0;
    for (const host of world.hosts) host.loadFailures = 0;
    world.fabrics.links.restoreAll();
    for (const engine of world.engines) {
      const isUnwell =
        !engine.isUp || engine.workers.some(({ isBusy, nextLoad }) => isBusy || nextLoad !== null);
      if (isUnwell) engine.restart();
      engine.nextCall = null;
      engine.nextPause = null;
    }
  }

  #later(milliseconds: number, action: () => void): void {
    this.#cluster.world.clock.after(milliseconds, () => {
      if (!this.#healed) action();
    });
  }

  #killHost(random: SeededRandom): void {
    const { world, ranks } = this.#cluster;
    const host = random.pick(world.hosts);
    for (const process of ranks.values()) if (world.hostOf(process.rank) === host) process.kill();
  }

  #killEngine(engine: SimulatedEngine, random: SeededRandom): void {
    engine.kill();
    this.#later(random.between(...engineRestart), () => engine.isUp || engine.restart());
  }

  #spoilLoad(engine: SimulatedEngine, fault: LoadFault, random: SeededRandom): void {
    random.pick(engine.workers).nextLoad = fault;
  }

  /** Both processes live on, but their connection is gone; one of the two notices first. */
  #loseSession(random: SeededRandom): void {
    const { network, clock, supervisorNode, devices } = this.#cluster.world;
    const node = this.#cluster.ranks.get(random.whole(0, devices.length - 1))?.process?.node;
    if (node === undefined) return;
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
