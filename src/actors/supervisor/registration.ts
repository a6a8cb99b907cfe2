import type { ActorRef, Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import type { CheckpointSource, Merged, OwnSegment, Registered } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { type PlannerMessage, toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { RankMember } from './rank-registry.ts';

export interface RegistrationOrder {
  readonly checkpoint: string;
  readonly source: CheckpointSource;
  /** With the rank behind it, the name of each rank's segment in its host's directory, if it is new. */
  readonly segmentName: string;
  /** Sets of segments that may be used again, the best first. */
  readonly spare: readonly (readonly OwnSegment[])[];
  readonly ranks: readonly RankMember[];
  /** From when on the time counts that it took. */
  readonly startedAt: number;
  readonly planner: ActorRef<PlannerMessage>;
  /**
   * Called before ranks fill these segments, if they are to fill any; `reused` is the set of `spare` that they are. Returns
   * false if that is no longer spare: then others are found.
   */
  readonly onLoading: (segments: readonly OwnSegment[], reused: readonly OwnSegment[] | null) => boolean;
}

/**
 * Brings a checkpoint into host memory: the planner reads the headers and deals out the bytes, every rank loads its
 * share and digests it, the planner merges what they hold into one manifest.
 */
export async function registerCheckpoint(
  context: Context<SupervisorInbox>,
  order: RegistrationOrder,
  signal: AbortSignal,
): Promise<Registered> {
  const { ranks, planner, startedAt, source } = order;
  if (source.kind === 'metas') return adoptMetas(context, order, source, signal);
  const orders =
    (await planLoading(context, order, source, order.spare, signal)) ??
    (await planLoading(context, order, source, [], signal));
  const memberOf = new Map(ranks.map((member) => [member.rank, member]));
  const parts = await Promise.all(
    orders!.map(async (share) => {
      const options = { deadlineMilliseconds: deadlines.load, signal };
      const { digests } = await ask(
        context,
        memberOf.get(share.rank)!.ref,
        toRank.load,
        { order: share },
        options,
      );
      return { manifest: share.manifest, digests };
    }),
  );
  const merged = await ask(
    context,
    planner,
    toPlanner.merge,
    { parts },
    { deadlineMilliseconds: deadlines.plan, signal },
  );
  const seconds = (context.clock.now() - startedAt) / 1000;
  return { ...asRegistered(order.checkpoint, merged, seconds), foreign: null, segments: merged.segments };
}

/** A checkpoint in the memory of another cluster: nothing is loaded, and what ranks lack they read from there. */
async function adoptMetas(
  context: Context<SupervisorInbox>,
  { checkpoint, planner }: RegistrationOrder,
  { manifest: encoded, secret, sources }: Extract<CheckpointSource, { kind: 'metas' }>,
  signal: AbortSignal,
): Promise<Registered> {
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const adopted = await ask(context, planner, toPlanner.adopt, { manifest: encoded }, options);
  return { ...asRegistered(checkpoint, adopted, 0), foreign: { secret, sources }, segments: [] };
}

function asRegistered(checkpoint: string, merged: Merged, seconds: number) {
  const { layout, digest, tensors, bytes, manifest } = merged;
  return { copies: [], lost: [], status: { checkpoint, digest, tensors, bytes, seconds }, layout, manifest };
}

/** Null if the spare set that was chosen has been taken by somebody else meanwhile. */
async function planLoading(
  context: Context<SupervisorInbox>,
  { checkpoint, segmentName, ranks, planner, onLoading }: RegistrationOrder,
  source: Exclude<CheckpointSource, { kind: 'metas' }>,
  spare: RegistrationOrder['spare'],
  signal: AbortSignal,
) {
  const { orders, reused, segments } = await ask(
    context,
    planner,
    toPlanner.planLoading,
    {
      checkpoint,
      source,
      segmentName,
      ranks: ranks.map(({ rank, host, directory }) => ({ rank, host, directory })),
      spare: spare.map((set) => [...set]),
    },
    { deadlineMilliseconds: deadlines.plan, signal },
  );
  if (segments.length === 0) return orders;
  return onLoading(segments, reused === null ? null : spare[reused]!) ? orders : null;
}
