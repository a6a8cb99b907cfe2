import type { PauseMode } from '../../engines/engine-client.ts';
import { AbortedError, asFailure, EngineError, type WeightcastError } from '../../errors.ts';
import type { ActorRef, AskOptions, Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { type BridgeMessage, toBridge } from '../protocol/bridge.ts';
import type { Registered } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { SwarmMessage } from '../protocol/swarm.ts';
import type { UpdateOptions } from '../protocol/update-values.ts';
import type { SupervisorInbox } from '../supervisor/inbox.ts';
import type { RankMember } from '../supervisor/rank-registry.ts';
import type { CommunicatorKeepers } from './communicators.ts';

/** An instance that is updated, through its bridge and the ranks on its devices. */
export interface InstanceMember {
  readonly name: string;
  readonly bridge: ActorRef<BridgeMessage>;
  readonly ranks: readonly number[];
  /** It holds parts of several versions, and is paused for that if it can be. */
  readonly isMixed: boolean;
  /** How to pause it during the update; null: not at all. */
  readonly pause: PauseMode | null;
  readonly resetCache: boolean;
  readonly hasDraftModel: boolean;
}

export interface UpdateOrder {
  readonly checkpoint: Registered;
  readonly options: UpdateOptions;
  /** How often every engine worker takes everything. */
  readonly exchanges: number;
  readonly ranks: readonly RankMember[];
  readonly instances: readonly InstanceMember[];
  readonly planner: ActorRef<PlannerMessage>;
  readonly swarm: ActorRef<SwarmMessage>;
  readonly communicators: CommunicatorKeepers;
  /** All ranks of the cluster that are ready at the moment: any of them can be read from. */
  readonly readyRanks: () => readonly RankMember[];
  /** When it has to be over, by the clock of actors. */
  readonly endsAt: number;
  /** Numbers that only grow; each attempt takes a new one. */
  readonly nextEpoch: () => number;
  /** Called in the moment before engines may change. */
  readonly onEnginesTouched: () => void;
  /** What ranks have received is of no more use. */
  readonly onMirrorsUnused: (mirrors: readonly { readonly path: string; readonly host: string }[]) => void;
}

/** What the steps of one update share: the order, and how they wait and give up. */
export class UpdateScope {
  readonly context: Context<SupervisorInbox>;
  readonly order: UpdateOrder;
  /** All that ranks were told to receive, in any attempt. */
  readonly mirrors: { readonly path: string; readonly host: string }[] = [];
  readonly #signal: AbortSignal;
  /** Ends the asks that are still open once the update has failed. */
  readonly #ended = new AbortController();
  #hasFailed = false;

  constructor(context: Context<SupervisorInbox>, order: UpdateOrder, signal: AbortSignal) {
    this.context = context;
    this.order = order;
    this.#signal = signal;
  }

  /** It gives back what it took; that has deadlines of its own. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** Milliseconds that a step may take: those that are left of the whole update, and `most` of them. */
  left(most = Number.POSITIVE_INFINITY): number {
    return Math.max(1, Math.min(most, Math.ceil(this.order.endsAt - this.context.clock.now())));
  }

  within(deadlineMilliseconds: number): AskOptions {
    return { deadlineMilliseconds, signal: AbortSignal.any([this.#signal, this.#ended.signal]) };
  }

  /** Waits for all; if one fails, what epoch `epoch` took is given back before the failure goes on. */
  async allOrAbandon<T>(epoch: number, work: readonly Promise<T>[]): Promise<T[]> {
    try {
      return await Promise.all(work);
    } catch (thrown) {
      this.#hasFailed = true;
      await this.abandon(epoch, asFailure(thrown).message);
      this.#ended.abort(new AbortedError(`epoch ${epoch} was abandoned`));
      throw rootCause(asFailure(thrown), await Promise.allSettled(work));
    }
  }

  /** Everyone who can still be reached gives back what epoch `epoch` took. Never rejects. */
  async abandon(epoch: number, reason: string): Promise<void> {
    const options = { deadlineMilliseconds: deadlines.abort };
    const ranks = this.order.ranks.map(({ ref }) =>
      ask(this.context, ref, toRank.abort, { epoch, reason }, options),
    );
    for (const outcome of await Promise.allSettled([...this.abandonBridges(reason), ...ranks])) {
      if (outcome.status === 'fulfilled') continue;
      this.context.log.warn({ epoch, error: asFailure(outcome.reason).message }, 'not given back in time');
    }
  }

  abandonBridges(reason: string): Promise<unknown>[] {
    const options = { deadlineMilliseconds: deadlines.abort };
    return this.order.instances.map(({ bridge }) =>
      ask(this.context, bridge, toBridge.abandon, { reason }, options),
    );
  }
}

/**
 * One failure makes others: peers of a rank that failed are aborted, and engines repeat what ranks told their workers.
 * Either may answer before the one who knows.
 */
function rootCause(
  first: WeightcastError,
  outcomes: readonly PromiseSettledResult<unknown>[],
): WeightcastError {
  const failures = outcomes.filter((outcome) => outcome.status === 'rejected');
  const errors = [first, ...failures.map((outcome) => asFailure(outcome.reason))];
  const causes = errors.filter((error) => !(error instanceof AbortedError));
  return causes.find((error) => !(error instanceof EngineError)) ?? causes[0] ?? first;
}
