import type { ActorRef, Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import type { CheckpointSource, Merged, OwnSegment, Registered } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { type PlannerMessage, toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';

export interface RegistrationSpec {
  readonly checkpoint: string;
  readonly source: CheckpointSource;
  /** Name of new segments in their host's directory, to which each rank's number is appended. */
  readonly segmentName: string;
  /** Sets of segments that may be reused, the preferred one first. */
  readonly spare: readonly (readonly OwnSegment[])[];
  readonly ranks: readonly ReadyRank[];
  /** The duration of the registration counts from here. */
  readonly startedAt: number;
  readonly planner: ActorRef<PlannerMessage>;
  /**
   * Called before ranks fill `segments`. `reused` is the spare set that they belong to, null for new ones. Returns false
   * if that set is no longer spare; then the loading is planned again, with new segments.
   */
  readonly claim: (segments: readonly OwnSegment[], reused: readonly OwnSegment[] | null) => boolean;
}

type Asker = Pick<Context<never>, 'ask' | 'clock'>;

/**
 * Brings a checkpoint into host memory: the planner reads the headers and assigns the bytes to ranks, every rank loads its
 * share and computes its digests, and the planner merges the shares into one manifest.
 */
export async function registerCheckpoint(
  asker: Asker,
  spec: RegistrationSpec,
  signal: AbortSignal,
): Promise<Registered> {
  const { ranks, planner, startedAt, source } = spec;
  if (source.kind === 'metas') return adoptMetas(asker, spec, source, signal);
  const shares =
    (await planLoading(asker, spec, source, spec.spare, signal)) ??
    (await planLoading(asker, spec, source, [], signal));
  const refOf = new Map(ranks.map(({ rank, ref }) => [rank, ref]));
  const parts = await Promise.all(
    shares!.map(async (share) => {
      const options = { deadlineMilliseconds: deadlines.load, signal };
      const { digests } = await ask(asker, refOf.get(share.rank)!, toRank.load, { order: share }, options);
      return { manifest: share.manifest, digests };
    }),
  );
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const merged = await ask(asker, planner, toPlanner.merge, { parts }, options);
  const seconds = (asker.clock.now() - startedAt) / 1000;
  return { ...asRegistered(spec.checkpoint, merged, seconds), foreign: null, segments: merged.segments };
}

/** A checkpoint in the memory of another cluster: nothing is loaded, ranks read what they need from there. */
async function adoptMetas(
  asker: Asker,
  { checkpoint, planner }: RegistrationSpec,
  { manifest, secret, sources }: Extract<CheckpointSource, { kind: 'metas' }>,
  signal: AbortSignal,
): Promise<Registered> {
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const adopted = await ask(asker, planner, toPlanner.adopt, { manifest }, options);
  return { ...asRegistered(checkpoint, adopted, 0), foreign: { secret, sources }, segments: [] };
}

function asRegistered(checkpoint: string, merged: Merged, seconds: number) {
  const { layout, digest, tensors, bytes, manifest } = merged;
  return { copies: [], lost: [], status: { checkpoint, digest, tensors, bytes, seconds }, layout, manifest };
}

/** Returns each rank's share; null if the chosen spare set was claimed by another registration meanwhile. */
async function planLoading(
  asker: Asker,
  { checkpoint, segmentName, ranks, planner, claim }: RegistrationSpec,
  source: Exclude<CheckpointSource, { kind: 'metas' }>,
  spare: RegistrationSpec['spare'],
  signal: AbortSignal,
) {
  const question = {
    checkpoint,
    source,
    segmentName,
    ranks: ranks.map(({ rank, host, directory }) => ({ rank, host, directory })),
    spare: spare.map((set) => [...set]),
  };
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const { orders, reused, segments } = await ask(asker, planner, toPlanner.planLoading, question, options);
  if (segments.length === 0) return orders;
  return claim(segments, reused === null ? null : spare[reused]!) ? orders : null;
}
