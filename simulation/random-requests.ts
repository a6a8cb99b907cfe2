import type { AnswersAsked } from '../src/actors/protocol/answers.ts';
import type { SimulatedCluster } from './cluster.ts';
import type { SeededRandom } from './random.ts';
import type { Outcome, SimulatedUser } from './user.ts';

type Request = Promise<Outcome<unknown>>;

/** Random requests of one user to a cluster, some of which must fail. */
export class RandomRequests {
  readonly #cluster: SimulatedCluster;
  readonly #user: SimulatedUser;
  readonly #random: SeededRandom;
  readonly #leaving: boolean;

  /** `leaving`: whether instances may be removed. */
  constructor(cluster: SimulatedCluster, user: SimulatedUser, random: SeededRandom, leaving: boolean) {
    this.#cluster = cluster;
    this.#user = user;
    this.#random = random;
    this.#leaving = leaving;
  }

  /** Names of the instances in the cluster, according to the last status. */
  get present(): string[] {
    return this.#cluster.status?.instances.map(({ name }) => name) ?? [];
  }

  /** Registers a random checkpoint as `one`, which is never unregistered. */
  registerOne(): Request {
    return this.#user.register('one', this.#path());
  }

  register(): Request {
    const name = this.#random.pick(['one', 'two']);
    // Never `one`, so that there is always a checkpoint to update to.
    if (this.#random.chance(0.1)) return this.#user.unregister('two');
    if (this.#random.chance(0.1)) return this.#user.releaseSpare();
    if (this.#random.chance(0.3)) {
      return this.#user.registerTensors(name, this.#random.pick(this.#cluster.world.options.checkpoints));
    }
    return this.#user.register(name, this.#path());
  }

  update(): Request {
    const some = this.#someInstances();
    const instances = some.length === 0 || this.#random.chance(0.5) ? undefined : some;
    const bucketBytes = this.#random.chance(0.5) ? undefined : this.#random.pick([2 ** 16, 2 ** 20, 2 ** 22]);
    return this.#user.update(this.#random.chance(0.8) ? 'one' : 'two', {
      ...(bucketBytes === undefined ? {} : { bucketBytes }),
      ...(instances === undefined ? {} : { instances }),
      keepCopy: this.#random.chance(0.7),
      parts: this.#random.chance(0.9),
      verify: {
        arrived: this.#random.chance(0.8),
        installed: false,
        ...this.#agreement(some),
      },
      timeoutMilliseconds: this.#random.pick([5_000, 60_000]),
    });
  }

  /** Adds an instance that is not in the cluster; asks for the status if all are. */
  join(): Request {
    const present = this.present;
    const absent = [...this.#cluster.world.engines.entries()].filter(
      ([, { name }]) => !present.includes(name),
    );
    if (absent.length === 0) return this.#user.status();
    const [number] = this.#random.pick(absent);
    return this.#user.addInstance(this.#cluster.instance(number));
  }

  /** Picks a kind of request to send while another one runs. */
  pickConcurrent(): () => Request {
    return this.#random.pick([
      () => this.update(),
      () => this.update(),
      () => this.join(),
      () => this.#leave(),
    ]);
  }

  #leave(): Request {
    const present = this.present;
    if (!this.#leaving || present.length === 0) return this.#user.status();
    return this.#user.removeInstance(this.#random.pick(present));
  }

  /** Now and then, that they answer as one of the others, which may have another version, or be updated itself. */
  #agreement(instances: readonly string[]): { readonly answers?: AnswersAsked } {
    const others = this.present.filter((name) => !instances.includes(name));
    if (others.length === 0 || this.#random.chance(0.5)) return {};
    return { answers: { agreeWith: this.#random.pick(others), prompts: ['one two three', [4, 5]] } };
  }

  #someInstances(): string[] {
    const present = this.#random.shuffled(this.present);
    return present.slice(0, this.#random.whole(1, present.length));
  }

  /** A checkpoint's path, now and then one that does not exist. */
  #path(): string {
    if (this.#random.chance(0.05)) return '/models/missing';
    return this.#random.pick(this.#cluster.world.options.checkpoints).path;
  }
}
