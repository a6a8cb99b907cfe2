import type { Cuts } from '../../checkpoint/cuts.ts';
import { shapeText } from '../../checkpoint/dtype.ts';
import { type Manifest, tensorsDigest } from '../../checkpoint/manifest.ts';
import { quoted } from '../../checkpoint/printable.ts';
import { MemoryError } from '../../errors.ts';
import type { FusedUnits } from '../../plan/fused-tensors.ts';
import { firstGap, sentParts } from '../../plan/kept-parts.ts';
import {
  type PartsPlan,
  type PartsPlanInput,
  planAlike,
  planParts,
  type Share,
  shareOf,
  stillFits,
  whyNotParts,
} from '../../plan/parts-plan.ts';
import type { Plan } from '../../plan/plan.ts';
import type { Lacking, PartsPlanned, ReadAnswer } from '../protocol/plan-values.ts';
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
  /** By rank. */
  readonly plans: Map<number, RankPlan>;
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
 * it, so that an update like the one before costs next to nothing.
 */
export class PartsPlanner {
  /** By digest, and divisions by all that they follow from; the least recently used first. */
  readonly #cuts = new Map<string, Cuts>();
  readonly #divisions = new Map<string, Division>();

  learn(digest: string, cuts: Cuts): void {
    keep(this.#cuts, digest, cuts, Number.POSITIVE_INFINITY);
    let entries = 0;
    for (const { dims } of this.#cuts.values()) entries += dims.length;
    for (const [oldest, { dims }] of this.#cuts) {
      if (entries <= mostCutEntries || oldest === digest) break;
      this.#cuts.delete(oldest);
      entries -= dims.length;
    }
  }

  /** Its layout is no longer registered. */
  forget(layout: string): void {
    for (const [key, division] of this.#divisions)
      if (division.layout === layout) this.#divisions.delete(key);
  }

  plan(question: Question, checkpoint: Checkpoint): PlannedParts {
    const { ranks } = question;
    const tensors = tensorsDigest(checkpoint.manifest);
    const kept = ranks.map((one) => one.kept.find((known) => known.tensors === tensors)?.digest);
    const silent = ranks.find((_, at) => kept[at] === undefined);
    if (silent !== undefined) {
      return {
        outcome: 'whole',
        why: `the engine worker of rank ${silent.rank} has not said which parts it keeps`,
      };
    }
    const digests = kept as string[];
    const lacking = this.#lacking(ranks.map(({ rank }, at) => ({ rank, digest: digests[at]! })));
    if (lacking !== null) return lacking;
    const division = this.#divide(question, checkpoint, digests);
    const why = whyNotParts(checkpoint.manifest, ranks, division.shares);
    if (why !== null) return { outcome: 'whole', why };
    try {
      return {
        outcome: 'parts',
        plans: ranks.map((_, at) => this.#planRank(question, checkpoint, division, at)),
      };
    } catch (thrown) {
      if (!(thrown instanceof MemoryError)) throw thrown;
      return { outcome: 'whole', why: thrown.message };
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
    return digests.map((digest) => {
      return keep(this.#cuts, digest, this.#cuts.get(digest)!, Number.POSITIVE_INFINITY);
    });
  }

  #divide(
    { bucketBytes, fused, ranks }: Question,
    { manifest, layout }: Checkpoint,
    digests: readonly string[],
  ): Division {
    const waiting = ranks.map((rank) => rank.waiting);
    const key = JSON.stringify([layout, bucketBytes, fused, digests, waiting]);
    const known = this.#divisions.get(key);
    if (known !== undefined) return keep(this.#divisions, key, known, mostDivisions);
    const shares = sentParts(manifest, this.#cutsOf(digests)).map((sent) => shareOf(manifest, sent));
    return keep(this.#divisions, key, { layout, shares, plans: new Map() }, mostDivisions);
  }

  #planRank(question: Question, checkpoint: Checkpoint, { plans, shares }: Division, at: number): Plan {
    const { memoryFraction: fraction, bucketBytes } = question;
    const rank = question.ranks[at]!;
    const { host } = rank;
    const { sent } = shares[at]!;
    const input = { ...checkpoint, rank, sent, fraction, bucketBytes };
    const known = plans.get(rank.rank);
    const isKnown = known?.host === host && known.sent === sent && stillFits(known.planned, input);
    const planned = isKnown ? known.planned : (planLikeOthers(plans, input) ?? planParts(input));
    keep(plans, rank.rank, { host, sent, planned }, mostPlans);
    return planned.plan;
  }
}

/** Null if no other rank of the host is sent as much of each tensor, as far as is seen by one of them. */
function planLikeOthers(plans: ReadonlyMap<number, RankPlan>, input: PartsPlanInput): PartsPlan | null {
  const others = [...plans.values()].filter(({ host }) => host === input.rank.host);
  const other = others.find(({ sent }) => sent === input.sent) ?? others[0];
  return other === undefined ? null : planAlike(other.planned, other.sent, input);
}

export type PlannedParts =
  | Exclude<PartsPlanned, { outcome: 'parts' }>
  | { readonly outcome: 'parts'; readonly plans: readonly Plan[] };

/** As the one that was used last; the first one goes where there are more than `most`. */
function keep<K, T>(table: Map<K, T>, key: K, value: T, most: number): T {
  table.delete(key);
  table.set(key, value);
  if (table.size > most) table.delete(table.keys().next().value!);
  return value;
}
