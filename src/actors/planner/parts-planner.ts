import type { Cuts } from '../../checkpoint/cuts.ts';
import { type Manifest, tensorsDigest } from '../../checkpoint/manifest.ts';
import { MemoryError } from '../../errors.ts';
import type { FusedUnits } from '../../plan/fused-tensors.ts';
import { sentParts } from '../../plan/kept-parts.ts';
import { type PartsPlan, planAlike, planParts, stillFits, whyNotParts } from '../../plan/parts-plan.ts';
import type { Plan } from '../../plan/plan.ts';
import type { PartsPlanned } from '../protocol/plan-values.ts';
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

/** What the ranks of an instance are sent of a checkpoint. */
interface Division {
  readonly layout: string;
  readonly sent: readonly Cuts[];
  /** Why not by parts; null if by parts. */
  readonly why: string | null;
  /** By the position of the rank. */
  readonly plans: Map<number, PartsPlan>;
}

/** Enough for all ranks of a host, in several instances and with several models. */
const mostCuts = 64;
const mostDivisions = 8;

/**
 * Plans updates of instances by parts. It keeps what ranks have said of their engine workers, and the plans that follow from
 * it, so that an update like the one before costs next to nothing.
 */
export class PartsPlanner {
  /** By digest, and divisions by all that they follow from; the least recently used first. */
  readonly #cuts = new Map<string, Cuts>();
  readonly #divisions = new Map<string, Division>();

  learn(digest: string, cuts: Cuts): void {
    keep(this.#cuts, digest, cuts, mostCuts);
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
    const missing = [...new Set(digests)].filter((digest) => !this.#cuts.has(digest));
    if (missing.length > 0) {
      const lacking = missing.map((digest) => ({ rank: ranks[digests.indexOf(digest)]!.rank, digest }));
      return { outcome: 'lacking', lacking };
    }
    const division = this.#divide(question, checkpoint, digests);
    if (division.why !== null) return { outcome: 'whole', why: division.why };
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

  #divide(
    { ranks, lost, bucketBytes, fused }: Question,
    checkpoint: Checkpoint,
    digests: readonly string[],
  ): Division {
    const { manifest, layout } = checkpoint;
    const members = ranks.map(({ rank, host }) => ({ rank, host }));
    const key = JSON.stringify([layout, bucketBytes, fused, lost, members, digests]);
    const known = this.#divisions.get(key);
    if (known !== undefined) return keep(this.#divisions, key, known, mostDivisions);
    const cuts = digests.map((digest) => keep(this.#cuts, digest, this.#cuts.get(digest)!, mostCuts));
    const sent = sentParts(manifest, cuts);
    const division = { layout, sent, why: whyNotParts(manifest, members, sent), plans: new Map() };
    return keep(this.#divisions, key, division, mostDivisions);
  }

  #planRank(question: Question, checkpoint: Checkpoint, { plans, sent }: Division, at: number): Plan {
    const { memoryFraction: fraction, bucketBytes } = question;
    const rank = question.ranks[at]!;
    let planned = plans.get(at);
    if (planned === undefined || !stillFits(planned, { rank, fraction })) {
      const input = { ...checkpoint, rank, sent: sent[at]!, fraction, bucketBytes };
      const first = at > 0 && question.ranks[0]!.host === rank.host ? plans.get(0) : undefined;
      planned = (first && planAlike(first, sent[0]!, input)) ?? planParts(input);
      plans.set(at, planned);
    }
    return planned.plan;
  }
}

export type PlannedParts =
  | Exclude<PartsPlanned, { outcome: 'parts' }>
  | { readonly outcome: 'parts'; readonly plans: readonly Plan[] };

/** As the one that was used last; the first one goes where there are more than `most`. */
function keep<T>(table: Map<string, T>, key: string, value: T, most: number): T {
  table.delete(key);
  table.set(key, value);
  if (table.size > most) table.delete(table.keys().next().value!);
  return value;
}
