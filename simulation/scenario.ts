import type { WeightcastError } from '../src/errors.ts';
import type { SimulatedCluster } from './cluster.ts';
import { cancelReason, FaultInjector, type FaultKind, faultKinds } from './faults.ts';
import type { Forger } from './forger.ts';
import type { SeededRandom } from './random.ts';
import { RandomRequests } from './random-requests.ts';
import { checkRecovery, checkStopped } from './recovery.ts';
import type { Outcome, SimulatedUser } from './user.ts';

export interface ScenarioOptions {
  /** Which faults may happen. Default: all. */
  readonly faults?: readonly FaultKind[] | undefined;
  /** Whether instances leave. Default: true. */
  readonly leaving?: boolean | undefined;
}

/** A user who sends random requests to a cluster while faults happen, and then checks that the cluster recovers. */
export class Scenario {
  readonly #cluster: SimulatedCluster;
  readonly #random: SeededRandom;
  readonly #kinds: readonly FaultKind[];
  readonly #injector: FaultInjector;
  readonly #user: SimulatedUser;
  readonly #requests: RandomRequests;
  /** How many requests succeeded. */
  succeeded = 0;
  /** Error codes of those that failed. */
  readonly reasons: string[] = [];

  constructor(cluster: SimulatedCluster, random: SeededRandom, { faults, leaving }: ScenarioOptions) {
    this.#cluster = cluster;
    this.#random = random;
    this.#kinds = faults ?? faultKinds;
    this.#injector = new FaultInjector(cluster);
    this.#user = cluster.user();
    this.#requests = new RandomRequests(cluster, this.#user, random, leaving ?? true);
  }

  /** How many faults were injected. */
  get faults(): number {
    return this.#injector.count;
  }

  get forger(): Forger {
    return this.#injector.forger;
  }

  async run(): Promise<void> {
    await this.#await(this.#user.awaitReady());
    // Now and then with faults from the start; the rounds below need a checkpoint in any case.
    if (this.#random.chance(0.2)) this.#planFaults();
    let registered = false;
    for (let attempt = 0; attempt < 20 && !registered; attempt += 1) {
      registered = await this.#await(this.#requests.registerOne());
      if (!registered) await this.#cluster.world.clock.advance(500);
    }
    const rounds = this.#random.whole(2, 5);
    for (let round = 0; round < rounds; round += 1) await this.#round();
    await checkRecovery(this.#cluster, this.#injector, this.#user, this.#requests, this.#random);
    await this.#cluster.stop();
    checkStopped(this.#cluster);
  }

  /** One registration or update, with other requests and faults at random moments meanwhile. */
  async #round(): Promise<void> {
    const { clock } = this.#cluster.world;
    await this.#cluster.complete(this.#user.status());
    this.#planFaults();
    const main = this.#random.chance(0.4) ? this.#requests.register() : this.#requests.update();
    const others: Promise<Outcome<unknown>>[] = [];
    while (this.#random.chance(0.4)) others.push(this.#requestLater());
    const statusRequests = this.#random.whole(0, 4);
    for (let request = 0; request < statusRequests; request += 1) {
      clock.after(this.#delay(), () => {
        this.#user.status();
      });
    }
    await this.#await(main);
    for (const other of others) await this.#await(other);
    if (this.#random.chance(0.5)) await clock.advance(this.#random.between(0, 4_000));
  }

  /** Another request that is sent while the first one runs. */
  #requestLater(): Promise<Outcome<unknown>> {
    const request = this.#requests.pickConcurrent();
    return new Promise((resolve) => {
      this.#cluster.world.clock.after(this.#delay(), () => void request().then(resolve));
    });
  }

  #planFaults(): void {
    const faults = this.#random.pick([0, 1, 1, 1, 2, 3]);
    for (let fault = 0; fault < faults; fault += 1) {
      const kind = this.#random.pick(this.#kinds);
      const random = this.#random.stream(`fault ${this.#injector.count} ${fault} ${this.#random.next()}`);
      this.#cluster.world.clock.after(this.#delay(), () => this.#injector.inject(kind, random));
    }
  }

  /** Milliseconds: mostly within an update, now and then long after it. */
  #delay(): number {
    const { deviceSlowness } = this.#cluster.world.options;
    return this.#random.pick([1, 10, 10, 40, 40, 40 + 5 * deviceSlowness, 2_000]) * this.#random.next();
  }

  /** Resolves with whether the request succeeded. */
  async #await(request: Promise<Outcome<unknown>>): Promise<boolean> {
    const outcome = await this.#cluster.complete(request);
    if (outcome.ok) {
      this.succeeded += 1;
      return true;
    }
    this.reasons.push(outcome.error.code);
    this.#checkReason(outcome.error);
    return false;
  }

  /** A failure must name its cause, not a consequence such as the abort that followed. */
  #checkReason({ code, message }: WeightcastError): void {
    // Callers that wait for an instance which another caller removes hear of that.
    const isCause = message.startsWith(cancelReason) || /^instance \S+ was removed$/.test(message);
    const isConsequence = code === 'WEIGHTCAST_ABORTED' && !isCause;
    if (!isConsequence && code !== 'WEIGHTCAST_INTERNAL') return;
    this.#cluster.world.trace.violated(`a failure does not name its cause: ${code} ${message}`);
  }
}
