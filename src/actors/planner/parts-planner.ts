import { type Cuts, isKept } from '../../checkpoint/cuts.ts';
import { shapeText } from '../../checkpoint/dtype.ts';
import { type Manifest, tensorsDigest } from '../../checkpoint/manifest.ts';
import { quoted } from '../../checkpoint/printable.ts';
import { MemoryError } from '../../errors.ts';
import type { FusedUnits } from '../../plan/fused-tensors.ts';
import { firstGap, sentParts } from '../../plan/kept-parts.ts';
import { type Share, shareOf, tensorsIfSpared, whyNotParts } from '../../plan/parts-choice.ts';
import {
  type PartsPlan,
  type PartsPlanInput,
  planAlike,
  planPartsInSteps,
  stillFits,
} from '../../plan/parts-plan.ts';
import type { Plan } from '../../plan/plan.ts';
import { arrivalOf, unclaimedRows } from '../../plan/sparing.ts';
import { RecentMap } from '../../recent-map.ts';
import type { Lacking, PartsPlanned, ReadAnswer, Sparing } from '../protocol/plan-values.ts';
import type { PlannerMessage } from '../protocol/planner.ts';

type Question = Extract<PlannerMessage, { type: 'plan-parts' }>;

/** The checkpoint that is planned. */
interface Checkpoint {
  /** With its lost segments marked. */
  readonly manifest: Manifest;
  /** The lasting one of `layoutDigests`. */
  readonly layout: string;
  readonly units: FusedUnits;
}

/** What the ranks of all instances are sent of a checkpoint whose engine workers keep the same. */
interface Division {
  readonly layout: string;
  /** By the position of a rank in its instance. */
  readonly shares: readonly Share[];
  /** What no worker keeps, which the first rank is sent. */
  readonly unclaimed: Uint32Array;
  /** By rank. */
  readonly plans: RecentMap<number, RankPlan>;
}

interface RankPlan {
  readonly host: string;
  readonly sent: Cuts;
  readonly planned: PartsPlan;
}

/** Of all cuts together: those of 400 ranks, each of 70,000 tensors. */
const mostCutEntries = 2 ** 25;
/** Instances with as many ways to divide a model, or with as many models. */
const mostDivisions = 8;
/** Of one division. */
const mostPlans = 256;

/**
 * Plans updates of instances by parts. It keeps what ranks have said of their engine workers, and the plans that follow from
 * it, so that an update like the one before costs next to nothing. What takes long is done in steps, between which others of
 * the process have their turn.
 */
export class PartsPlanner {
  readonly #breathe: () => Promise<void>;
  /** By digest, and divisions by all that they follow from. */
  readonly #cuts = new RecentMap<string, Cuts>(mostCutEntries, ({ dims }) => dims.length);
  readonly #divisions = new RecentMap<string, Division>(mostDivisions);
  /** `arrivalDigest` of what a rank is sent of the tensors of a manifest. */
  readonly #expected = new WeakMap<Manifest, WeakMap<Cuts, string>>();
  /** Instances are planned one after the other: the next one is likely to be like the last. */
  #last: Promise<unknown> = Promise.resolve();

  /** `breathe`: as `PlannerPorts`. */
  constructor(breathe: () => Promise<void>) {
    this.#breathe = breathe;
  }

  learn(digest: string, cuts: Cuts): void {
    this.#cuts.set(digest, cuts);
  }

  /** Its layout is no longer registered. */
  forget(layout: string): void {
    for (const [key, division] of this.#divisions)
      if (division.layout === layout) this.#divisions.delete(key);
  }

  plan(question: Question, checkpoint: Checkpoint): Promise<PlannedParts> {
    const planned = this.#last.then(() => this.#plan(question, checkpoint));
    this.#last = planned.catch(() => {});
    return planned;
  }

  async #plan(question: Question, checkpoint: Checkpoint): Promise<PlannedParts> {
    const { ranks } = question;
    const { manifest } = checkpoint;
    const tensors = tensorsDigest(manifest);
    const kept = ranks.map((one) => one.kept.find((known) => known.tensors === tensors)?.digest);
    const silent = ranks.find((_, at) => kept[at] === undefined);
    if (silent !== undefined) {
      return {
        outcome: 'whole',
        why: `the engine worker of rank ${silent.rank} has not said which parts it keeps`,
        sparing: null,
      };
    }
    const digests = kept as string[];
    const lacking = this.#lacking(ranks.map(({ rank }, at) => ({ rank, digest: digests[at]! })));
    if (lacking !== null) return lacking;
    const division = await this.#divide(question, checkpoint, digests);
    const why = whyNotParts(manifest, ranks, division.shares, question.whole);
    const whole = async (why: string) => {
      return { outcome: 'whole', why, sparing: await this.#spare(manifest, division, digests) } as const;
    };
    if (why !== null) return whole(why);
    try {
      const plans: Plan[] = [];
      for (const at of ranks.keys()) plans.push(await this.#planRank(question, checkpoint, division, at));
      return { outcome: 'parts', plans };
    } catch (thrown) {
      if (!(thrown instanceof MemoryError)) throw thrown;
      return whole(thrown.message);
    }
  }

  /** By what the engine workers of an instance keep of a checkpoint, all of which their ranks have announced. */
  checkReads(ranks: Lacking['lacking'], manifest: Manifest): ReadAnswer {
    const lacking = this.#lacking(ranks);
    if (lacking !== null) return lacking;
    const gap = firstGap(manifest, this.#cutsOf(ranks.map(({ digest }) => digest)));
    if (gap === null) return { outcome: 'known', gap: null };
    const { row, dim, start, length } = gap;
    const { names, dimensions, shapeStarts } = manifest;
    const shape = shapeText(dimensions.subarray(shapeStarts[row]!, shapeStarts[row + 1]!));
    const part = `${start} to ${start + length - 1} along dimension ${dim}`;
    return { outcome: 'known', gap: `${part} of tensor ${quoted(names[row]!)}, whose shape is ${shape}` };
  }

  /** Null if all are known. */
  #lacking(ranks: Lacking['lacking']): Lacking | null {
    const missing = new Map<string, Lacking['lacking'][number]>();
    for (const one of ranks)
      if (!this.#cuts.has(one.digest) && !missing.has(one.digest)) missing.set(one.digest, one);
    return missing.size === 0 ? null : { outcome: 'lacking', lacking: [...missing.values()] };
  }

  /** Of known ones, which have been used just now. */
  #cutsOf(digests: readonly string[]): Cuts[] {
    return digests.map((digest) => this.#cuts.get(digest)!);
  }

  async #divide(
    { bucketBytes, fused, ranks }: Question,
    { manifest, layout }: Checkpoint,
    digests: readonly string[],
  ): Promise<Division> {
    const waiting = ranks.map((rank) => rank.waiting);
    const key = JSON.stringify([layout, bucketBytes, fused, digests, waiting]);
    const known = this.#divisions.get(key);
    if (known !== undefined) return known;
    const shares: Share[] = [];
    const kept = this.#cutsOf(digests);
    for (const sent of sentParts(manifest, kept)) {
      await this.#breathe();
      shares.push(shareOf(manifest, sent));
    }
    const unclaimed = unclaimedRows(kept[0]!, shares[0]!.sent);
    return this.#divisions.set(key, { layout, shares, unclaimed, plans: new RecentMap(mostPlans) });
  }

  /** What each rank announces of whole tensors; null if there is nothing to be gained by that. */
  async #spare(
    manifest: Manifest,
    { shares, unclaimed }: Division,
    digests: readonly string[],
  ): Promise<Sparing[] | null> {
    if (tensorsIfSpared(shares) >= manifest.names.length) return null;
    const expected = this.#expected.get(manifest) ?? new WeakMap<Cuts, string>();
    this.#expected.set(manifest, expected);
    const sparing: Sparing[] = [];
    for (const [at, { sent }] of shares.entries()) {
      if (!expected.has(sent)) {
        await this.#breathe();
        expected.set(
          sent,
          arrivalOf(manifest.digests, (row) => isKept(sent, row)),
        );
      }
      const also = at === 0 ? unclaimed : new Uint32Array();
      sparing.push({ kept: digests[at]!, also, expected: expected.get(sent)! });
    }
    return sparing;
  }

  async #planRank(
    question: Question,
    checkpoint: Checkpoint,
    { plans, shares }: Division,
    at: number,
  ): Promise<Plan> {
    const { memoryFraction: fraction, bucketBytes } = question;
    const rank = question.ranks[at]!;
    const { host } = rank;
    const { sent } = shares[at]!;
    const input = { ...checkpoint, rank, sent, fraction, bucketBytes };
    const known = plans.get(rank.rank);
    if (known?.host === host && known.sent === sent && stillFits(known.planned, input))
      return known.planned.plan;
    await this.#breathe();
    const planned = planLikeOthers(plans, input) ?? (await this.#inSteps(planPartsInSteps(input)));
    plans.set(rank.rank, { host, sent, planned });
    return planned.plan;
  }

  async #inSteps<T>(steps: Generator<undefined, T>): Promise<T> {
    for (;;) {
      const { done, value } = steps.next();
      if (done) return value;
      await this.#breathe();
    }
  }
}

/** Null if no other rank of the host is sent as much of each tensor, as far as is seen by one of them. */
function planLikeOthers(plans: RecentMap<number, RankPlan>, input: PartsPlanInput): PartsPlan | null {
  const others = [...plans.values()].filter(({ host }) => host === input.rank.host);
  const other = others.find(({ sent }) => sent === input.sent) ?? others[0];
  return other === undefined ? null : planAlike(other.planned, other.sent, input);
}

export type PlannedParts =
  | Exclude<PartsPlanned, { outcome: 'parts' }>
  | { readonly outcome: 'parts'; readonly plans: readonly Plan[] };
