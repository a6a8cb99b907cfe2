import type { WeightcastError } from '../src/errors.ts';
import { checkpointAt, randomModel, type SimulatedCheckpoint } from './checkpoint.ts';
import { SimulatedCluster } from './cluster.ts';
import { cancelReason, FaultInjector, type FaultKind, faultKinds } from './faults.ts';
import type { Forger } from './forger.ts';
import { checkIdle, checkSupervisorIdle } from './invariants.ts';
import { SeededRandom } from './random.ts';
import type { Outcome, SimulatedUser } from './user.ts';
import type { WorldOptions } from './world.ts';

export interface RunOptions {
  readonly seed: number;
  /** Which faults may happen; all unless given. */
  readonly faults?: readonly FaultKind[];
  /** Whether instances leave while others may receive from them. They do unless told otherwise. */
  readonly leaving?: boolean;
  /** Sends ranks messages of epochs that are over; nothing else may come out differently for that. */
  readonly forge?: { readonly everyMilliseconds: number; readonly times: number };
  readonly keepTrace?: number;
}

export interface RunResult {
  readonly seed: number;
  readonly violations: readonly string[];
  /** The same for the same seed, event for event. */
  readonly digest: string;
  /** The last events. */
  readonly trace: readonly string[];
  readonly events: number;
  readonly faults: number;
  /** Forged messages that were refused. */
  readonly refused: number;
  /** What users asked for, by outcome. */
  readonly succeeded: number;
  readonly failed: number;
  /** Codes of the errors that those got. */
  readonly reasons: readonly string[];
  readonly virtualMilliseconds: number;
}

/** Long enough for everything that was taken to be given back, and for a rank to be started again. */
const quietMilliseconds = 40_000;
/** Until all ranks are back and engines that were started again are up. */
const recoveryMilliseconds = 200_000;

/** One run: a random cluster, a user who works with it, and harm at random moments. All follows from the seed. */
export async function run(options: RunOptions): Promise<RunResult> {
  const random = new SeededRandom(options.seed);
  const cluster = new SimulatedCluster(randomWorld(options, random.stream('world')));
  const story = new Story(cluster, random.stream('story'), options);
  const { trace, clock } = cluster.world;
  if (options.forge !== undefined) forgeOften(cluster, story.forger, options.forge);
  try {
    await story.tell();
  } catch (error) {
    trace.violated((error as Error).stack ?? String(error));
  } finally {
    cluster.abandon();
  }
  return {
    seed: options.seed,
    violations: trace.violations,
    digest: trace.digest,
    trace: trace.lines,
    events: trace.events,
    faults: story.faults,
    refused: story.forger.refused,
    succeeded: story.succeeded,
    failed: story.reasons.length,
    reasons: story.reasons,
    virtualMilliseconds: clock.now(),
  };
}

function randomWorld({ seed, keepTrace }: RunOptions, random: SeededRandom): WorldOptions {
  const worldSize = random.pick([1, 2, 2, 3, 4, 4, 6, 8]);
  const instances: number[][] = [];
  for (let rank = 0; rank < worldSize; rank += 1) {
    if (instances.length === 0 || random.chance(0.4)) instances.push([]);
    instances.at(-1)!.push(rank);
  }
  const largestBytes = random.pick([2 ** 20, 2 ** 24, 2 ** 26]);
  const tensors = random.whole(2, 24);
  const inSharedMemory = random.chance(0.2);
  const [model, other] = [
    randomModel(random, tensors, largestBytes),
    randomModel(random, tensors, largestBytes),
  ];
  const checkpoints: SimulatedCheckpoint[] = [
    checkpointAt('/models/a', model, inSharedMemory),
    checkpointAt('/models/b', model, inSharedMemory),
    checkpointAt('/models/c', other, false),
  ];
  return {
    seed,
    worldSize,
    ranksPerHost: random.pick([1, 2, 8]),
    instances,
    firstInstances: random.whole(1, instances.length),
    reach: random.pick(['host', 'cluster']),
    nicsPerHost: random.pick([1, 2]),
    // From an update that is over at once to one that is received for seconds.
    linkRate: random.pick([50e6, 1e6, 1e5]),
    // From just enough for two slots to plenty.
    deviceCapacity: Math.ceil(largestBytes * random.pick([2.5, 3.2, 4, 20])) + 2 ** 16,
    deviceSlowness: random.pick([1, 1, 10, 300]),
    checkpoints,
    reports: random.chance(0.8),
    pauses: random.chance(0.5),
    spareCheckpoints: random.pick([0, 1, 2]),
    ...(keepTrace === undefined ? {} : { keepTrace }),
  };
}

function forgeOften(
  { world }: SimulatedCluster,
  forger: Forger,
  { everyMilliseconds, times }: NonNullable<RunOptions['forge']>,
): void {
  const random = world.random.stream('forged');
  for (let time = 1; time <= times; time += 1)
    world.clock.after(time * everyMilliseconds, () => forger.forge(random));
}

class Story {
  readonly #cluster: SimulatedCluster;
  readonly #random: SeededRandom;
  readonly #kinds: readonly FaultKind[];
  readonly #leaving: boolean;
  readonly #injector: FaultInjector;
  readonly #user: SimulatedUser;
  succeeded = 0;
  readonly reasons: string[] = [];

  constructor(cluster: SimulatedCluster, random: SeededRandom, { faults, leaving }: RunOptions) {
    this.#cluster = cluster;
    this.#random = random;
    this.#kinds = faults ?? faultKinds;
    this.#leaving = leaving ?? true;
    this.#injector = new FaultInjector(cluster);
    this.#user = cluster.user();
  }

  get faults(): number {
    return this.#injector.count;
  }

  get forger(): Forger {
    return this.#injector.forger;
  }

  async tell(): Promise<void> {
    await this.#await(this.#user.awaitReady());
    // Now and then under fire; what comes after needs something to bring.
    if (this.#random.chance(0.2)) this.#planFaults();
    let registered = false;
    for (let attempt = 0; attempt < 20 && !registered; attempt += 1) {
      registered = await this.#await(this.#user.register('one', this.#pathOf(0.05)));
      if (!registered) await this.#cluster.world.clock.advance(500);
    }
    const rounds = this.#random.whole(2, 5);
    for (let round = 0; round < rounds; round += 1) await this.#round();
    await this.#recover();
    await this.#cluster.stop();
    this.#checkGone();
  }

  async #round(): Promise<void> {
    const { clock } = this.#cluster.world;
    await this.#cluster.complete(this.#user.status());
    this.#planFaults();
    const work = this.#random.chance(0.4) ? this.#register() : this.#update();
    const others: Promise<Outcome<unknown>>[] = [];
    while (this.#random.chance(0.4)) others.push(this.#soonAlso());
    const looks = this.#random.whole(0, 4);
    for (let look = 0; look < looks; look += 1) {
      clock.after(this.#soon(), () => {
        this.#user.status();
      });
    }
    await this.#await(work);
    for (const other of others) await this.#await(other);
    if (this.#random.chance(0.5)) await clock.advance(this.#random.between(0, 4_000));
  }

  /** Something else that is asked while the first thing runs. */
  #soonAlso(): Promise<Outcome<unknown>> {
    const ask = this.#random.pick([
      () => this.#update(),
      () => this.#update(),
      () => this.#join(),
      () => this.#leave(),
    ]);
    return new Promise((resolve) => {
      this.#cluster.world.clock.after(this.#soon(), () => void ask().then(resolve));
    });
  }

  #planFaults(): void {
    const faults = this.#random.pick([0, 1, 1, 1, 2, 3]);
    for (let fault = 0; fault < faults; fault += 1) {
      const kind = this.#random.pick(this.#kinds);
      const random = this.#random.stream(`fault ${this.#injector.count} ${fault} ${this.#random.next()}`);
      this.#cluster.world.clock.after(this.#soon(), () => this.#injector.inject(kind, random));
    }
  }

  /** Milliseconds: mostly within an update, now and then long after. */
  #soon(): number {
    const { deviceSlowness } = this.#cluster.world.options;
    return this.#random.pick([1, 10, 10, 40, 40, 40 + 5 * deviceSlowness, 2_000]) * this.#random.next();
  }

  #register(): Promise<Outcome<unknown>> {
    const name = this.#random.pick(['one', 'two']);
    // Only 'two', so that there is something to bring whatever happens.
    if (this.#random.chance(0.1)) return this.#user.unregister('two');
    if (this.#random.chance(0.1)) return this.#user.releaseSpare();
    if (this.#random.chance(0.3)) {
      return this.#user.registerTensors(name, this.#random.pick(this.#cluster.world.options.checkpoints));
    }
    return this.#user.register(name, this.#pathOf(0.05));
  }

  #update(): Promise<Outcome<unknown>> {
    const some = this.#someInstances();
    const instances = some.length === 0 || this.#random.chance(0.5) ? undefined : some;
    const bucketBytes = this.#random.chance(0.5) ? undefined : this.#random.pick([2 ** 16, 2 ** 20, 2 ** 22]);
    return this.#user.update(this.#random.chance(0.8) ? 'one' : 'two', {
      ...(bucketBytes === undefined ? {} : { bucketBytes }),
      ...(instances === undefined ? {} : { instances }),
      keepCopy: this.#random.chance(0.7),
      verify: this.#random.chance(0.8),
      timeoutMilliseconds: this.#random.pick([5_000, 60_000]),
    });
  }

  /** Names of those that are there, as far as is known. */
  get #present(): string[] {
    return this.#cluster.status?.instances.map(({ name }) => name) ?? [];
  }

  #someInstances(): string[] {
    const present = this.#random.shuffled(this.#present);
    return present.slice(0, this.#random.whole(1, present.length));
  }

  #join(): Promise<Outcome<unknown>> {
    const present = this.#present;
    const absent = [...this.#cluster.world.engines.entries()].filter(
      ([, { name }]) => !present.includes(name),
    );
    if (absent.length === 0) return this.#user.status();
    const [number] = this.#random.pick(absent);
    return this.#user.addInstance(this.#cluster.instance(number));
  }

  #leave(): Promise<Outcome<unknown>> {
    const present = this.#present;
    if (!this.#leaving || present.length === 0) return this.#user.status();
    return this.#user.removeInstance(this.#random.pick(present));
  }

  /** A checkpoint's path, or with that probability one that does not exist. */
  #pathOf(missing: number): string {
    if (this.#random.chance(missing)) return '/models/missing';
    return this.#random.pick(this.#cluster.world.options.checkpoints).path;
  }

  async #await(work: Promise<Outcome<unknown>>): Promise<boolean> {
    const outcome = await this.#cluster.complete(work);
    if (outcome.ok) {
      this.succeeded += 1;
      return true;
    }
    this.reasons.push(outcome.error.code);
    this.#checkReason(outcome.error);
    return false;
  }

  /** A failure names what went wrong, and not what followed from it. */
  #checkReason({ code, message }: WeightcastError): void {
    const isConsequence = code === 'WEIGHTCAST_ABORTED' && message !== cancelReason;
    if (!isConsequence && code !== 'WEIGHTCAST_INTERNAL') return;
    this.#cluster.world.trace.violated(`a failure tells no cause: ${code} ${message}`);
  }

  /** When nobody does harm any more, the cluster comes back by itself, and can be updated. */
  async #recover(): Promise<void> {
    const { clock, trace, options, engines } = this.#cluster.world;
    await clock.advance(quietMilliseconds);
    checkSupervisorIdle(this.#cluster);
    this.#injector.heal();
    await clock.advance(quietMilliseconds);
    const end = clock.now() + recoveryMilliseconds;
    let ready = false;
    while (!ready && clock.now() < end) {
      const outcome = await this.#cluster.complete(this.#user.awaitReady());
      ready = outcome.ok;
      // The supervisor has given a rank up: that is an end, and was reported as such.
      if (!outcome.ok && /; giving up$/.test(outcome.error.message)) return;
    }
    if (!ready) trace.violated('the ranks did not come back');
    checkIdle(this.#cluster);
    while (this.#present.length === 0 || this.#random.chance(0.5)) {
      const joined = await this.#cluster.complete(this.#join());
      if (!joined.ok) trace.violated(`after recovery: ${joined.error.message}`);
    }
    for (const [name, { path }] of [
      ['one', options.checkpoints[0]!],
      ['last', options.checkpoints[1]!],
    ] as const) {
      const registered = await this.#cluster.complete(this.#user.register(name, path));
      if (!registered.ok) trace.violated(`after recovery: ${registered.error.message}`);
      const updated = await this.#cluster.complete(this.#user.update(name));
      if (!updated.ok) trace.violated(`after recovery: ${updated.error.message}`);
      else if (options.reports && !updated.value.verified) trace.violated('after recovery: not verified');
    }
    await clock.advance(1_000);
    const present = this.#present;
    for (const { name, isPaused } of engines) {
      // One that was removed with parts of several versions stays paused: it is not the cluster's any more.
      if (isPaused && present.includes(name)) trace.violated(`${name} is left paused`);
    }
    checkIdle(this.#cluster);
  }

  #checkGone(): void {
    const { world, ranks } = this.#cluster;
    const { trace, devices, links, communicators } = world;
    if (ranks.size > 0) trace.violated(`${ranks.size} processes are left after the end`);
    if (links.open > 0) trace.violated(`${links.open} worker links are left after the end`);
    if (communicators.members > 0) trace.violated(`${communicators.members} communicator members are left`);
    for (const { uuid, used } of devices) if (used > 0) trace.violated(`${used} bytes are left on ${uuid}`);
  }
}
