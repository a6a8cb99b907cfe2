import type { WorkersSaid } from '../../engines/workers-said.ts';
import { asFailure, MemoryError } from '../../errors.ts';
import { usualBucketBytes } from '../../plan/memory-budget.ts';
import { ask } from '../protocol/ask.ts';
import type { Registered } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { Planned, Sparing } from '../protocol/plan-values.ts';
import { toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { GroupCommunicator } from './communicators.ts';
import type { UpdateContext, UpdateSpec, UpdateTarget } from './context.ts';
import { groupsOf } from './groups.ts';
import { planParts } from './parts.ts';
import type { PlannedGroup, Prepared } from './planned-group.ts';

/** An epoch that is planned; its ranks have allocated nothing yet. */
export interface PlannedEpoch {
  readonly epoch: number;
  readonly groups: readonly PlannedGroup[];
  /** By rank, of those that announce less than all to their engine workers. */
  readonly sparing: ReadonlyMap<number, Sparing>;
  /** The instances for which something follows from what their engine workers have said that they keep. */
  readonly recorded: readonly UpdateTarget[];
}

/** Ranks to the free device memory to plan with, in bytes: those that refused their slots have less than they report. */
export type Ceilings = Map<number, number>;

/** Begins an epoch, and plans for the device memory that is free. Ranks allocate nothing. */
export async function planEpoch(
  update: UpdateContext,
  ceilings: ReadonlyMap<number, number> = new Map(),
): Promise<PlannedEpoch> {
  const { ranks, nextEpoch } = update.spec;
  const epoch = nextEpoch();
  const prepared = await Promise.all(ranks.map((ready) => prepare(update, epoch, ready, ceilings)));
  const { byParts, groups, sparing } = await planParts(update, prepared);
  const alone = new Set([...byParts].flatMap((target) => target.ranks));
  const together = prepared.filter(({ ready }) => !alone.has(ready.rank));
  const whole = await Promise.all(
    groupsOf(together.map(({ ready }) => ready)).map((group) => {
      const members = together.filter(({ ready }) => group.includes(ready));
      return planGroup(update, epoch, group, members);
    }),
  );
  const isRecorded = (target: UpdateTarget) =>
    byParts.has(target) || target.ranks.some((rank) => sparing.has(rank));
  return { epoch, groups: [...groups, ...whole], sparing, recorded: update.spec.targets.filter(isRecorded) };
}

/** Asks a rank for what a plan depends on. */
async function prepare(
  update: UpdateContext,
  epoch: number,
  ready: ReadyRank,
  ceilings: ReadonlyMap<number, number>,
): Promise<Prepared> {
  const { rank, ref } = ready;
  const asked = ask(update.context, ref, toRank.prepare, { epoch }, update.within(deadlines.control));
  const answer = await update.answerOf(rank, update.orUnresponsive(ready, asked));
  const ceiling = ceilings.get(rank) ?? Number.POSITIVE_INFINITY;
  return { ...answer, ready, freeBytes: Math.min(answer.freeBytes, ceiling) };
}

async function planGroup(
  update: UpdateContext,
  epoch: number,
  ranks: readonly ReadyRank[],
  prepared: readonly Prepared[],
): Promise<PlannedGroup> {
  const communicator = update.spec.communicators.of(ranks);
  const missing = communicator.missing(ranks);
  if (missing !== null) {
    const { rank, ref } = ranks[0]!;
    const question = { epoch, communicator: missing };
    const within = update.within(deadlines.control);
    const created = ask(update.context, ref, toRank.createCommunicator, question, within);
    communicator.hold(await update.answerOf(rank, created));
  }
  const planned = await plan(update, epoch, prepared, communicator);
  return { ranks, prepared, communicator, planned };
}

/** Rejects with `MemoryError`, for which it blames the instances that would have too little for themselves. */
async function plan(
  update: UpdateContext,
  epoch: number,
  prepared: readonly Prepared[],
  communicator: GroupCommunicator,
): Promise<Planned> {
  const { planner, targets } = update.spec;
  const planFor = (members: readonly Prepared[]) => {
    const question = planQuestion(update.spec, epoch, members, communicator);
    return ask(update.context, planner, toPlanner.plan, question, update.within(deadlines.plan));
  };
  try {
    return await planFor(prepared);
  } catch (thrown) {
    if (!(thrown instanceof MemoryError)) throw thrown;
    for (const { ranks: own } of targets.length > 1 ? targets : []) {
      const members = prepared.filter(({ ready }) => own.includes(ready.rank));
      if (members.length === 0) continue;
      const { rank } = members[0]!.ready;
      await planFor(members).catch((error) => update.failures.ofRank(rank, asFailure(error)));
    }
    throw thrown;
  }
}

/** What the engine worker of a rank keeps of layers that are not whole; null if nothing, or nobody knows. */
export function waitingOf({ targets, workers }: UpdateSpec, rank: number): WorkersSaid['waiting'] {
  const target = targets.find(({ ranks }) => ranks.includes(rank));
  return (target && workers.get(target.name)?.waiting) ?? null;
}

function planQuestion(
  spec: UpdateSpec,
  epoch: number,
  prepared: readonly Prepared[],
  communicator: GroupCommunicator,
) {
  const { checkpoint, options, readyRanks } = spec;
  const { memoryFraction } = options;
  const wanted = Math.max(communicator.leastBucketBytes, ...prepared.map(({ bucketBytes }) => bucketBytes));
  return {
    layout: checkpoint.layout,
    ranks: prepared.map(({ ready, freeBytes }) => ({
      ...asFabricRank(ready),
      freeBytes,
      waiting: waitingOf(spec, ready.rank),
    })),
    sources: [...readyRanks().map(asFabricRank), ...foreignRanks(checkpoint)],
    copies: [...checkpoint.copies],
    lost: [...checkpoint.lost],
    mirrorName: `mirror-${epoch}-`,
    memoryFraction,
    bucketBytes: options.bucketBytes ?? usualBucketBytes(wanted, prepared, memoryFraction),
    fused: options.fusedModules ?? [],
  };
}

function asFabricRank({ rank, host, directory, nics }: ReadyRank) {
  return { rank, host, directory, nics: [...nics] };
}

function foreignRanks({ foreign }: Registered) {
  return (foreign?.sources ?? []).map(({ rank, host, nics }) => ({
    rank,
    host,
    directory: '',
    nics: [...nics],
  }));
}
