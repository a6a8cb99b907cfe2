import { type Cuts, cutsDigest } from '../../checkpoint/cuts.ts';
import { type Manifest, tensorsDigest } from '../../checkpoint/manifest.ts';
import { PartsRefusedError, WeightcastError, WorkerLinkError } from '../../errors.ts';
import { inManifestRows } from '../../plan/kept-parts.ts';
import type { Plan } from '../../plan/plan.ts';
import { announcedRows } from '../../plan/sparing.ts';
import type { Logger } from '../../ports.ts';
import { RecentMap } from '../../recent-map.ts';
import type { Sparing } from '../protocol/plan-values.ts';
import type { KeptAnnouncement, WorkerAsked } from '../protocol/update-values.ts';
import type { Announcement } from './announcement.ts';
import type { WorkerLinkOrder } from './ports.ts';
import type { RankTransfer } from './transfer.ts';

/** Enough for a target model and for others that the engine is given in turn. */
const mostLists = 4;

interface Known {
  readonly token: string;
  /** In the order of a manifest's rows. */
  readonly cuts: Cuts;
  readonly digest: string;
}

interface PartsOrder extends Pick<WorkerLinkOrder, 'parts' | 'kept'> {
  readonly announcement: Announcement | null;
}

/**
 * Which part of each tensor the engine worker of a rank keeps, as it has said itself after an update by whole tensors. By
 * the list of tensors, wherever they lie: the next version of a checkpoint may be in other files.
 */
export class KeptParts {
  readonly #rank: number;
  /** By `tensorsDigest`. */
  readonly #known = new RecentMap<string, Known>(mostLists);

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

  /**
   * What to tell the worker of parts when it opens the link buffer, and what is announced to it of whole tensors: null for all.
   * Throws `WeightcastError` as {@link cutsOf}.
   */
  order(plan: Plan, manifest: Manifest, asked: WorkerAsked['parts'], sparing: Sparing | null): PartsOrder {
    const tensors = tensorsDigest(manifest);
    if (asked === 'anew' || asked === 'forget') this.#known.delete(tensors);
    const known = this.#known.get(tensors);
    const isAsked = asked === 'learn' || asked === 'anew';
    if (plan.cuts === null) {
      if (known === undefined || sparing?.kept !== known.digest)
        return { parts: isAsked && known === undefined, kept: null, announcement: null };
      const { also, expected } = sparing;
      const announcement = { rows: announcedRows(known.cuts, also), expected };
      return { parts: false, kept: known.token, announcement };
    }
    if (known === undefined)
      throw new WeightcastError(`rank ${this.#rank} has forgotten what its engine worker keeps`);
    return { parts: false, kept: known.token, announcement: null };
  }

  /**
   * After an update that has ended well. Returns what is known since; null if nothing is. A worker that says nothing right of
   * what it keeps goes on getting whole tensors.
   */
  learn(
    { kept, plan, manifest }: Pick<RankTransfer, 'kept' | 'plan' | 'manifest'>,
    log: Logger,
  ): KeptAnnouncement | null {
    if (kept === null || plan.cuts !== null) return null;
    const { token, cuts } = kept;
    const [said, entries] = [cuts.dims.length, plan.tensorOrder.length];
    if (said !== entries) {
      const who = `the engine worker of rank ${this.#rank}`;
      log.warn({}, `${who} says what it keeps of ${said} tensors, and was sent ${entries}`);
      return null;
    }
    const ordered = inManifestRows(cuts, plan.tensorOrder);
    const tensors = tensorsDigest(manifest);
    const digest = cutsDigest(ordered);
    this.#known.set(tensors, { token, cuts: ordered, digest });
    return { tensors, digest };
  }

  /** What an update has failed with. If it was the worker, that may be another one by now, or have forgotten what it kept. */
  failed(error: WeightcastError, manifest: Manifest): void {
    const isOfWorker = error instanceof WorkerLinkError || error instanceof PartsRefusedError;
    if (isOfWorker) this.#known.delete(tensorsDigest(manifest));
  }
}
