import { unpackCuts } from '../../checkpoint/cuts-codec.ts';
import { asFailure, VerificationError } from '../../errors.ts';
import type { UpdateRates, WholeAlternative } from '../../plan/parts-choice.ts';
import type { AskOptions } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { Lacking, PartsPlanned, Sparing } from '../protocol/plan-values.ts';
import { toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { WorkerAsked } from '../protocol/update-values.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import type { PlannedGroup, Prepared } from './planned-group.ts';

/** What the planner is told, by its digest: workers of several instances keep the same. */
export type Bringing = Map<string, Promise<void>>;
type Announced = Lacking['lacking'][number];
type Answer = Exclude<PartsPlanned, { outcome: 'lacking' }>;

/** What follows from what engine workers have said that they keep. */
export interface PartsPlan {
  /** The instances that are sent parts. */
  readonly byParts: ReadonlySet<UpdateTarget>;
  readonly groups: readonly PlannedGroup[];
  /** By rank, of others. */
  readonly sparing: ReadonlyMap<number, Sparing>;
}

/**
 * Plans each instance whose ranks all know what their engine workers keep: each of its ranks is then a group of its own, with
 * a plan for that. The others are left to be planned with whole tensors.
 */
export async function planParts(update: UpdateContext, prepared: readonly Prepared[]): Promise<PartsPlan> {
  const byParts = new Set<UpdateTarget>();
  const sparing = new Map<number, Sparing>();
  const bringing: Bringing = new Map();
  const groups = await Promise.all(
    update.spec.targets.map(async (target) => {
      const own = new Set(target.ranks);
      const members = prepared.filter(({ ready }) => own.has(ready.rank));
      if (members.length === 0) return [];
      const { feeding } = update.spec;
      const answer = await planInstance(update, target, members, { prepared, bringing });
      if (answer === null || answer.outcome === 'whole') {
        feeding.note(target.name, { fed: 'whole', whyWhole: answer?.why ?? null });
        for (const [at, { ready }] of members.entries())
          if (answer?.sparing) sparing.set(ready.rank, answer.sparing[at]!);
        return [];
      }
      byParts.add(target);
      feeding.note(target.name, { fed: 'parts', whyWhole: null });
      return members.map((member, at) => {
        return {
          ranks: [member.ready],
          prepared: [member],
          communicator: null,
          planned: answer.planned[at]!,
        };
      });
    }),
  );
  return { byParts, groups: groups.flat(), sparing };
}

/** What the engine workers of an instance are asked of the parts that they keep. */
export function askedOfParts({ spec }: UpdateContext, { name }: UpdateTarget): WorkerAsked['parts'] {
  const isOutdated = spec.feeding.demandsWhole(name) !== null;
  if (!spec.options.parts || spec.exchanges > 1) return isOutdated ? 'forget' : 'no';
  return isOutdated ? 'anew' : 'learn';
}

/** Null if nobody has asked for parts. */
async function planInstance(
  update: UpdateContext,
  { name, ranks }: UpdateTarget,
  members: readonly Prepared[],
  { prepared, bringing }: { readonly prepared: readonly Prepared[]; readonly bringing: Bringing },
): Promise<Answer | null> {
  const { checkpoint, options, exchanges, feeding, planner, workers } = update.spec;
  if (!options.parts) return null;
  if (ranks.length === 1) return wholeTensors('it has one engine worker, which keeps all');
  if (exchanges > 1) return wholeTensors('a draft model takes the same weights');
  const demand = feeding.demandsWhole(name);
  if (demand !== null) return wholeTensors(demand);
  const question = {
    layout: checkpoint.layout,
    ranks: members.map(({ ready: { rank, host }, freeBytes, kept }) => ({
      rank,
      host,
      freeBytes,
      waiting: workers.get(name)?.waiting ?? null,
      kept: [...kept],
    })),
    lost: [...checkpoint.lost],
    memoryFraction: options.memoryFraction,
    bucketBytes: options.bucketBytes ?? Math.max(...members.map(({ bucketBytes }) => bucketBytes)),
    fused: options.fusedModules ?? [],
    whole: wholeAlternative(members, prepared),
  };
  const plan = () =>
    ask(update.context, planner, toPlanner.planParts, question, update.within(deadlines.plan));
  let answer = await plan();
  if (answer.outcome === 'lacking') {
    const within = update.within(deadlines.control);
    await bringLacking(answer, bringing, (one) => update.answerOf(one.rank, bringParts(update, one, within)));
    answer = await plan();
  }
  if (answer.outcome !== 'lacking') return answer;
  return wholeTensors('more different parts are kept by its engine workers than are remembered');
}

function wholeTensors(why: string): Answer {
  return { outcome: 'whole', why, sparing: null };
}

/** If none of the ranks were sent parts. Only those of its own hosts upload what an instance may get by parts. */
function wholeAlternative(members: readonly Prepared[], prepared: readonly Prepared[]): WholeAlternative {
  const hosts = new Set(members.map(({ ready: { host } }) => host));
  const known = (rate: keyof UpdateRates) => members.flatMap(({ rates }) => rates[rate] ?? []);
  const least = (rate: keyof UpdateRates) => {
    const rates = known(rate);
    return rates.length === 0 ? null : Math.min(...rates);
  };
  const tensors = known('tensor');
  return {
    sharing: prepared.filter(({ ready: { host } }) => hosts.has(host)).length,
    rates: {
      upload: least('upload'),
      broadcast: least('broadcast'),
      tensor: tensors.length === 0 ? null : Math.max(...tensors),
    },
  };
}

/**
 * By what the workers of an instance have said that they have read. Rejects with `VerificationError` if it is not all of a
 * tensor: loaders take their part by its place, without an error for one that is too large.
 */
export async function checkReads(
  update: UpdateContext,
  { name }: UpdateTarget,
  ranks: readonly Announced[],
  bringing: Bringing,
): Promise<void> {
  const { context, spec } = update;
  // All is loaded: the update's deadline does not matter any more.
  const patience = { deadlineMilliseconds: Math.max(deadlines.control, update.left(deadlines.plan)) };
  const question = { layout: spec.checkpoint.layout, ranks: [...ranks] };
  const check = () => ask(context, spec.planner, toPlanner.checkReads, question, patience);
  let gap: string | null = null;
  try {
    let answer = await check();
    if (answer.outcome === 'lacking') {
      await bringLacking(answer, bringing, (one) => bringParts(update, one, patience));
      answer = await check();
    }
    gap = answer.outcome === 'known' ? answer.gap : null;
  } catch (thrown) {
    // A rank or the planner has ended, which says nothing of the weights.
    context.log.warn({ instance: name, error: asFailure(thrown).message }, 'what was read is not compared');
  }
  if (gap === null) return;
  throw new VerificationError(
    `instance ${name}: no engine worker has read ${gap}: the checkpoint is of another model than the engine's; one whose model leaves that out is updated with acceptUnproven (--accept-unproven)`,
  );
}

/** Has the planner know what ranks have announced. */
async function bringLacking(
  { lacking }: Lacking,
  bringing: Bringing,
  bring: (one: Announced) => Promise<void>,
): Promise<void> {
  for (const one of lacking) if (!bringing.has(one.digest)) bringing.set(one.digest, bring(one));
  await Promise.all(lacking.map(({ digest }) => bringing.get(digest)));
}

async function bringParts(
  { context, spec }: UpdateContext,
  { rank, digest }: Announced,
  options: AskOptions,
): Promise<void> {
  const { ref } = spec.ranks.find((ready) => ready.rank === rank)!;
  const { packed } = await ask(context, ref, toRank.keptParts, { digest }, options);
  context.tell(spec.planner, { type: 'learn-parts', digest, cuts: unpackCuts(packed) });
}
