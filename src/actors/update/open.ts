import { oldestProtocol } from '../../engines/worker-link/messages.ts';
import { MemoryError } from '../../errors.ts';
import type { Plan } from '../../plan/plan.ts';
import type { Copy } from '../../plan/reception.ts';
import type { LeasedSources } from '../join/leased-sources.ts';
import { ask } from '../protocol/ask.ts';
import type { Registered } from '../protocol/checkpoint-values.ts';
import { deadlines, growing } from '../protocol/deadlines.ts';
import type { ReceptionRequest } from '../protocol/join-values.ts';
import type { Planned } from '../protocol/plan-values.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { Opened, UpdateRequest, WorkerAsked } from '../protocol/update-values.ts';
import type { UpdateContext } from './context.ts';
import { EpochDocuments } from './documents.ts';
import { askedOfParts } from './parts.ts';
import { type Ceilings, type PlannedEpoch, planEpoch } from './plan-epoch.ts';
import type { PlannedGroup, Prepared } from './planned-group.ts';
import { stepTimeoutOf } from './step-timeout.ts';

/** An epoch whose ranks hold their slots and worker links. No engine is touched yet. */
export interface OpenEpoch {
  readonly epoch: number;
  readonly groups: readonly OpenGroup[];
  /** Rank to the address of its worker link. */
  readonly links: ReadonlyMap<number, string>;
}

export interface OpenGroup {
  readonly ranks: readonly ReadyRank[];
  readonly plan: Plan;
  /** The copies that its ranks receive from other hosts. */
  readonly mirrors: readonly Copy[];
}

/** A worker hears that the update's time is over before it gives up by itself. */
const workerSlackSeconds = 60;

/** A rank that refuses this many plans, each smaller than the one before, is not short of memory only for a moment. */
const openLimit = 4;

/**
 * Opens the planned epoch, or plans one now if `planned` is null. When an allocation fails all the same, plans again for
 * less memory. Rejects with `MemoryError` if that does not help.
 */
export async function openEpoch(
  update: UpdateContext,
  sources: LeasedSources,
  planned: PlannedEpoch | null,
): Promise<OpenEpoch> {
  const ceilings: Ceilings = new Map();
  let next = planned;
  // Each rank finds once at most that what it has of an earlier version is not enough.
  let attempts = openLimit + update.spec.ranks.length;
  for (let refusals = 0; refusals < openLimit && attempts > 0; attempts -= 1) {
    const opened = await tryOpen(update, sources, next ?? (await planEpoch(update, ceilings)), ceilings);
    if (typeof opened === 'object') return opened;
    next = null;
    if (opened === 'refused') refusals += 1;
  }
  const refusing = [...ceilings.keys()];
  const error = new MemoryError(
    `rank ${refusing.join(', ')} refused its slots ${openLimit} times; free device memory there`,
  );
  for (const rank of refusing) update.failures.ofRank(rank, error);
  throw error;
}

/**
 * Returns why it is to be planned again, if it is: a rank has refused its slots, and `ceilings` are lower now, or one has
 * outdated digests.
 */
async function tryOpen(
  update: UpdateContext,
  sources: LeasedSources,
  { epoch, groups, sparing }: PlannedEpoch,
  ceilings: Ceilings,
): Promise<OpenEpoch | 'refused' | 'outdated'> {
  const open = groups.map(({ ranks, planned }) => {
    return { ranks, plan: planned.plan, mirrors: mirrorsOf(planned, ranks) };
  });
  for (const { mirrors } of open) update.mirrors.push(...mirrors);
  await sources.lease(
    epoch,
    groups.map(({ planned }) => planned),
  );
  const documents = new EpochDocuments(update, epoch);
  const opens = groups.map((group) => openGroup(update, sources, { epoch, documents, sparing }, group));
  const answers = await update.allOrAbort(epoch, opens).finally(() => documents.release());
  const links = new Map<number, string>();
  for (const [index, { prepared }] of groups.entries())
    noteAnswers(prepared, answers[index]!, links, ceilings);
  if (links.size < update.spec.ranks.length) {
    await update.abort(epoch, 'planning again: memory is short, or a manifest is to be sent');
    return answers.flat().some(({ outcome }) => outcome === 'pressure') ? 'refused' : 'outdated';
  }
  await update.allOrAbort(epoch, [sources.announce(answers.flat())]);
  return { epoch, groups: open, links };
}

/** Async, so that a communicator that is gone rejects, and the other groups are waited for. */
async function openGroup(
  update: UpdateContext,
  sources: LeasedSources,
  {
    epoch,
    documents,
    sparing,
  }: Pick<PlannedEpoch, 'epoch' | 'sparing'> & { readonly documents: EpochDocuments },
  { communicator: group, prepared, planned }: PlannedGroup,
): Promise<Opened[]> {
  const { checkpoint, options, exchanges, swarm } = update.spec;
  const { plan, reception } = planned;
  const communicator = group?.offer() ?? null;
  const missing = await documents.bringMissing(plan, planned.manifest ?? checkpoint.manifest, prepared);
  const opens = prepared.map((member) => {
    const { ready, freeBytes } = member;
    const question = {
      epoch,
      version: versionOf(checkpoint),
      worker: askedOf(ready.rank, update),
      exchanges,
      stepTimeoutMilliseconds: stepTimeoutOf(update),
      communicator,
      planDigest: plan.digest,
      layout: plan.layout,
      ...missing(member),
      segments: planned.segments,
      expected: planned.expected,
      sparing: sparing.get(ready.rank) ?? null,
      reception: receptionOf(ready.rank, reception, sources.swarm, swarm),
      // Half of what the plan left free.
      reserveBytes: (freeBytes * (1 - options.memoryFraction)) / 2,
    };
    const within = update.within(openMilliseconds(checkpoint, prepared.length, question.reception));
    const answer = ask(update.context, ready.ref, toRank.open, question, within);
    return update.answerOf(ready.rank, answer);
  });
  return Promise.all(opens);
}

/** A rank reserves, pins and registers what it receives, and pins what it has not fed before. */
function openMilliseconds({ status }: Registered, ranks: number, reception: ReceptionRequest | null): number {
  const received = reception?.mirrors.reduce((sum, { bytes }) => sum + bytes, 0) ?? 0;
  return growing(deadlines.open, received + status.bytes / ranks, 'memory');
}

/** With something to compare them with, models do not stay unproven. */
export function acceptsUnproven({ acceptUnproven, baseline, verify }: UpdateRequest): boolean {
  return acceptUnproven || baseline !== null || verify.answers !== undefined;
}

function askedOf(rank: number, update: UpdateContext): WorkerAsked {
  const { spec, liveLayouts } = update;
  const { targets, options, workers } = spec;
  const instance = targets.find(({ ranks }) => ranks.includes(rank))!;
  return {
    report: options.verify.arrived,
    liveLayouts: options.verify.installed ? [...liveLayouts.keys()] : null,
    acceptUnproven: acceptsUnproven(options),
    silenceSeconds: Math.ceil(update.left() / 1_000) + workerSlackSeconds,
    protocol: workers.get(instance.name)?.protocol ?? oldestProtocol,
    parts: askedOfParts(update, instance),
  };
}

function receptionOf(
  rank: number,
  reception: Planned['reception'],
  swarm: string,
  ref: ReceptionRequest['ref'],
): ReceptionRequest | null {
  const mirrors = reception?.mirrors.filter(({ receiver }) => receiver === rank) ?? [];
  if (reception === null || mirrors.length === 0) return null;
  return { swarm, ref, sliceBytes: reception.sliceBytes, mirrors };
}

function noteAnswers(
  group: readonly Prepared[],
  answers: readonly Opened[],
  links: Map<number, string>,
  ceilings: Ceilings,
): void {
  for (const [index, answer] of answers.entries()) {
    const { ready, freeBytes } = group[index]!;
    if (answer.outcome === 'open') {
      links.set(ready.rank, answer.linkAddress);
      continue;
    }
    if (answer.outcome === 'outdated') continue;
    // With enough free memory, another process took it meanwhile, or it is fragmented.
    const isShort = answer.freeBytes < answer.wantedBytes;
    ceilings.set(ready.rank, isShort ? answer.freeBytes : freeBytes / 2);
  }
}

function mirrorsOf({ reception }: Planned, ranks: readonly ReadyRank[]): Copy[] {
  const hostOf = new Map(ranks.map(({ rank, host }) => [rank, host]));
  return (reception?.mirrors ?? []).map(({ slice, path, receiver }) => {
    return { slice, path, rank: receiver, host: hostOf.get(receiver)! };
  });
}

/** `checkpoint@digest`. */
export function versionOf({ status }: Registered): string {
  return `${status.checkpoint}@${status.digest}`;
}
