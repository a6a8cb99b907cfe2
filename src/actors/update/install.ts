import { asFailure, type WeightcastError } from '../../errors.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { Proofs, ProofsAsked, Streamed } from '../protocol/update-values.ts';
import type { InstanceOutcome, UpdateContext, UpdateTarget } from './context.ts';
import { type OpenEpoch, stepTimeoutOf, versionOf } from './open.ts';

/**
 * How long an engine whose workers have all acknowledged everything may take to answer its HTTP request, when the update
 * has failed elsewhere; and how long its verification may.
 */
const answerMilliseconds = 5_000;

/** What an epoch has made of each instance. */
export interface Installation {
  readonly outcomes: ReadonlyMap<UpdateTarget, InstanceOutcome>;
  /** Of the ranks whose streams ended well; all of them if there is no failure. */
  readonly streamed: readonly Streamed[];
  readonly proofs: ReadonlyMap<UpdateTarget, Proofs>;
  readonly failure: WeightcastError | null;
}

/** Streams an open epoch into the engines, and verifies it. Outcomes are those of instances: a failure spares the others. */
export class Installing {
  readonly #update: UpdateContext;
  readonly #open: OpenEpoch;
  readonly #streamed = new Map<number, Streamed>();
  readonly #answered = new Set<UpdateTarget>();
  #loadsOf: ReadonlyMap<number, number> = new Map();

  constructor(update: UpdateContext, open: OpenEpoch) {
    this.#update = update;
    this.#open = open;
  }

  /** Never rejects. `onVerify` is called between the two steps. */
  async run(onVerify: () => void): Promise<Installation> {
    let failure = await this.#stream();
    onVerify();
    const outcomes = new Map<UpdateTarget, InstanceOutcome>();
    const proofs = new Map<UpdateTarget, Proofs>();
    const { options, ranks, targets } = this.#update.spec;
    await Promise.all(
      targets.map(async (target) => {
        outcomes.set(target, this.#outcomeOf(target));
        proofs.set(target, unproved(options.verify));
        if (!this.#reportsArrival(target) || outcomes.get(target) !== 'updated') return;
        try {
          await this.#verify(target);
          proofs.set(target, { ...unproved(options.verify), arrived: 'holds' });
        } catch (thrown) {
          outcomes.set(target, 'broken');
          failure ??= asFailure(thrown);
        }
      }),
    );
    const streamed = ranks.flatMap(({ rank }) => this.#streamed.get(rank) ?? []);
    return { outcomes, proofs, streamed, failure };
  }

  /** The engines' HTTP answers and the ranks' streams race: the first failure ends the wait. Null if there is none. */
  async #stream(): Promise<WeightcastError | null> {
    const { epoch } = this.#open;
    const { spec, aborted } = this.#update;
    // Ranks first: the first upload need not wait for the HTTP requests to be sent.
    const streams = this.#streams();
    const triggers = spec.targets.map((target) => this.#trigger(target));
    const work = [...triggers, ...streams];
    aborted.catch(() => {});
    try {
      await Promise.race([Promise.all(work), aborted]);
      return null;
    } catch (thrown) {
      const reason = asFailure(thrown).message;
      const acknowledged = new Set(spec.targets.filter((target) => this.#hasAcknowledged(target)));
      this.#loadsOf = await this.#update.fail(epoch, reason, acknowledged);
      const answers = triggers.filter((_, index) => acknowledged.has(spec.targets[index]!));
      await this.#settledSoon(answers);
      await Promise.allSettled(this.#update.abandonCalls(reason));
      return this.#update.failureOf(epoch, thrown, work);
    }
  }

  #streams(): Promise<void>[] {
    const { context, spec } = this.#update;
    const within = this.#update.within(this.#update.left() + deadlines.control);
    const { epoch } = this.#open;
    return spec.ranks.map(async ({ rank, ref }) => {
      this.#streamed.set(rank, await ask(context, ref, toRank.stream, { epoch }, within));
    });
  }

  async #trigger(target: UpdateTarget): Promise<void> {
    const { context, spec } = this.#update;
    const { epoch, links } = this.#open;
    const timeoutMilliseconds = this.#update.left();
    const deviceOf = new Map(spec.ranks.map(({ rank, deviceUuid }) => [rank, deviceUuid]));
    const own = Object.fromEntries(target.ranks.map((rank) => [deviceOf.get(rank)!, links.get(rank)!]));
    const version = versionOf(spec.checkpoint);
    const { resetCache } = target;
    const stepTimeoutMilliseconds = stepTimeoutOf(spec);
    const limits = { stepTimeoutMilliseconds, timeoutMilliseconds };
    const question = { epoch, links: own, version, resetCache, ...limits };
    const options = this.#update.untilEnded(timeoutMilliseconds + deadlines.control);
    await ask(context, target.bridge, toBridge.trigger, question, options);
    this.#answered.add(target);
  }

  /** Waits until all have settled, but not for long. */
  async #settledSoon(work: readonly Promise<unknown>[]): Promise<void> {
    let cancel = () => {};
    const late = new Promise<void>((resolve) => {
      cancel = this.#update.context.clock.after(answerMilliseconds, resolve);
    });
    await Promise.race([Promise.allSettled(work), late]);
    cancel();
  }

  #hasAcknowledged({ ranks }: UpdateTarget): boolean {
    return ranks.every((rank) => this.#streamed.has(rank));
  }

  #outcomeOf(target: UpdateTarget): InstanceOutcome {
    if (this.#hasAcknowledged(target) && this.#answered.has(target)) return 'updated';
    // A rank that has not answered may have sent its worker anything.
    return target.ranks.every((rank) => this.#loadsOf.get(rank) === 0) ? 'unchanged' : 'broken';
  }

  /** Whether digests of what arrived were asked for, and all workers of the instance have reported theirs. */
  #reportsArrival({ ranks }: UpdateTarget): boolean {
    if (!this.#update.spec.options.verify.arrived) return false;
    return ranks.every((rank) => (this.#streamed.get(rank)?.arrivedDigests ?? null) !== null);
  }

  /** Rejects with `VerificationError`. */
  async #verify({ name, ranks }: UpdateTarget): Promise<void> {
    const { context, spec } = this.#update;
    const planOf = new Map(
      this.#open.groups.flatMap(({ plan, ranks: members }) => members.map(({ rank }) => [rank, plan])),
    );
    const reports = ranks.map((rank) => {
      const arrivedDigests = this.#streamed.get(rank)!.arrivedDigests!;
      return { rank, plan: planOf.get(rank)!, arrivedDigests };
    });
    const question = { layout: spec.checkpoint.layout, instance: name, reports };
    const deadlineMilliseconds = Math.max(answerMilliseconds, this.#update.left(deadlines.plan));
    await ask(context, spec.planner, toPlanner.verify, question, { deadlineMilliseconds });
  }
}

/** What is known of an instance before anything of it is compared. */
function unproved({ arrived, installed }: ProofsAsked): Proofs {
  return {
    arrived: arrived ? 'unknown' : 'not asked',
    installed: installed ? 'unknown' : 'not asked',
    answering: 'not asked',
  };
}
