import { type Cuts, cutsDigest } from '../../checkpoint/cuts.ts';
import { type Manifest, tensorsDigest } from '../../checkpoint/manifest.ts';
import type { KeptParts as Recorded } from '../../engines/worker-link/worker-link.ts';
import { ProtocolError, WeightcastError } from '../../errors.ts';
import { inManifestRows } from '../../plan/kept-parts.ts';
import type { Plan } from '../../plan/plan.ts';
import type { KeptAnnouncement, WorkerAsked } from '../protocol/update-values.ts';

/** Enough for a target model and for others that the engine is given in turn. */
const mostLists = 4;

interface Known {
  readonly token: string;
  /** In the order of a manifest's rows. */
  readonly cuts: Cuts;
  readonly digest: string;
}

/**
 * Which part of each tensor the engine worker of a rank keeps, as it has said itself after an update by whole tensors. By
 * the list of tensors, wherever they lie: the next version of a checkpoint may be in other files.
 */
export class KeptParts {
  readonly #rank: number;
  /** By `tensorsDigest`; the one that was learned first comes first. */
  readonly #known = new Map<string, Known>();

  constructor(rank: number) {
    this.#rank = rank;
  }

  /** What there is to plan with. */
  get announced(): KeptAnnouncement[] {
    return [...this.#known].map(([tensors, { digest }]) => ({ tensors, digest }));
  }

  /** Throws `WeightcastError` for what it has forgotten meanwhile. */
  cutsOf(digest: string): Cuts {
    for (const known of this.#known.values()) if (known.digest === digest) return known.cuts;
    throw new WeightcastError(`rank ${this.#rank} no longer knows the parts ${digest} of its engine worker`);
  }

  /** What to tell the worker of parts when it opens the link buffer. Throws `WeightcastError` as {@link cutsOf}. */
  order(plan: Plan, manifest: Manifest, asked: WorkerAsked['parts']) {
    const tensors = tensorsDigest(manifest);
    if (asked === 'anew') this.#known.delete(tensors);
    const known = this.#known.get(tensors);
    if (plan.cuts === null) return { parts: asked !== 'no' && known === undefined, kept: null };
    if (known === undefined)
      throw new WeightcastError(`rank ${this.#rank} has forgotten what its engine worker keeps`);
    return { parts: false, kept: known.token };
  }

  /** After an update by whole tensors that has ended well. Throws `ProtocolError`. */
  learn({ token, cuts }: Recorded, plan: Plan, manifest: Manifest): void {
    const entries = plan.tensorOrder.length;
    if (cuts.dims.length !== entries) {
      throw new ProtocolError(
        `the engine worker of rank ${this.#rank} says what it keeps of ${cuts.dims.length} tensors instead of ${entries}`,
      );
    }
    const ordered = inManifestRows(cuts, plan.tensorOrder);
    const tensors = tensorsDigest(manifest);
    this.#known.delete(tensors);
    this.#known.set(tensors, { token, cuts: ordered, digest: cutsDigest(ordered) });
    if (this.#known.size > mostLists) this.#known.delete(this.#known.keys().next().value!);
  }

  /** Its worker has failed, and may be another one by now. */
  forget(manifest: Manifest): void {
    this.#known.delete(tensorsDigest(manifest));
  }
}
