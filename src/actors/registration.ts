import { ask } from './conversation.ts';
import { deadlines } from './deadlines.ts';
import type { ActorRef, Context } from './kernel/index.ts';
import type { RankMember } from './members.ts';
import {
  type CheckpointSource,
  type PlannerMessage,
  type Registered,
  type Segment,
  type SupervisorMessage,
  toPlanner,
  toRank,
} from './messages.ts';

export interface RegistrationOrder {
  readonly checkpoint: string;
  readonly source: CheckpointSource;
  /** With the rank behind it, the name of each rank's segment in its host's directory. */
  readonly segmentName: string;
  readonly ranks: readonly RankMember[];
  readonly planner: ActorRef<PlannerMessage>;
  /** Called before ranks make these segments; if the registration then fails, they are to be forgotten. */
  readonly onLoading: (segments: readonly Segment[]) => void;
}

/**
 * Brings a checkpoint into host memory: the planner reads the headers and deals out the bytes, every rank loads its
 * share and digests it, the planner merges what they hold into one manifest.
 */
export async function registerCheckpoint(
  context: Context<SupervisorMessage>,
  order: RegistrationOrder,
  signal: AbortSignal,
): Promise<Registered> {
  const { checkpoint, source, segmentName, ranks, planner } = order;
  const startedAt = context.clock.now();
  if (source.kind === 'metas') return adoptMetas(context, order, source, signal);
  const members = ranks.map(({ rank, host, directory }) => ({ rank, host, directory }));
  const { orders } = await ask(
    context,
    planner,
    toPlanner.planLoading,
    { checkpoint, source, segmentName, ranks: members },
    { deadlineMilliseconds: deadlines.plan, signal },
  );
  const memberOf = new Map(ranks.map((member) => [member.rank, member]));
  order.onLoading(
    orders.flatMap(({ rank, segment }) => {
      return segment === null ? [] : [{ path: segment, host: memberOf.get(rank)!.host }];
    }),
  );
  const parts = await Promise.all(
    orders.map(async (share) => {
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
  const { layout, digest, tensors, bytes, manifest, segments } = merged;
  return {
    copies: [],
    foreign: null,
    status: { checkpoint, digest, tensors, bytes, seconds },
    layout,
    manifest,
    segments,
  };
}

/** A checkpoint in the memory of another cluster: nothing is loaded, and what ranks lack they read from there. */
async function adoptMetas(
  context: Context<SupervisorMessage>,
  { checkpoint, planner }: RegistrationOrder,
  { manifest: encoded, secret, sources }: Extract<CheckpointSource, { kind: 'metas' }>,
  signal: AbortSignal,
): Promise<Registered> {
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const adopted = await ask(context, planner, toPlanner.adopt, { manifest: encoded }, options);
  const { layout, digest, tensors, bytes, manifest } = adopted;
  const status = { checkpoint, digest, tensors, bytes, seconds: 0 };
  return { copies: [], foreign: { secret, sources }, status, layout, manifest, segments: [] };
}
