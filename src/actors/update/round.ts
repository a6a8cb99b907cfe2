import type { WeightcastError } from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { LeasedSources } from '../join/leased-sources.ts';
import type { Streamed } from '../protocol/update-values.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import { groupsOf } from './groups.ts';
import { Installing } from './install.ts';
import type { InstanceEnds } from './instance-ends.ts';
import { type OpenEpoch, openEpoch } from './open.ts';
import type { Pauses } from './pauses.ts';
import type { PlannedEpoch } from './plan-epoch.ts';
import type { Serving } from './serving.ts';

/** What was installed in one round. */
export interface Installed {
  readonly open: OpenEpoch;
  /** Of the ranks of the instances that it has updated. */
  readonly streamed: ReadonlyMap<number, Streamed>;
  /** What hosts have received from other hosts, and keep. */
  readonly copies: readonly Copy[];
}

/** One try to update the instances that are left: one epoch, or several after memory pressure. */
export class Round {
  readonly #update: UpdateContext;
  readonly #pauses: Pauses;
  readonly #ends: InstanceEnds;
  readonly #serving: Serving;
  readonly #sources: LeasedSources;
  #step: string | null = 'ranks to prepare';
  #open: OpenEpoch | null = null;
  #installing: Installing | null = null;
  /** Instances that have failed in it without being whole: what becomes of them is not this round's work. */
  readonly #failed = new Set<UpdateTarget>();

  constructor(update: UpdateContext, pauses: Pauses, ends: InstanceEnds, serving: Serving) {
    this.#update = update;
    this.#pauses = pauses;
    this.#ends = ends;
    this.#serving = serving;
    this.#sources = new LeasedSources(update);
  }

  /** What it waits for; null while it only releases what it took. */
  get step(): string | null {
    // What is verified and resumed has deadlines of its own.
    const isOver = this.#update.isReleasing || this.#installing?.isOver;
    if (isOver) return null;
    const late = this.#installing?.unfinished ?? [];
    return late.length === 0 ? this.#step : `the engine of ${late.join(', ')} to install it`;
  }

  get sources(): LeasedSources {
    return this.#sources;
  }

  /**
   * Rejects with the first failure, when every rank that could be reached has released what it took. Instances that were
   * whole before have ended all the same. A failure that touches only a part of the instances is given to `onFailed` instead,
   * while the others go on.
   */
  async run(
    planned: PlannedEpoch | null,
    onFailed: (part: UpdateContext, error: WeightcastError) => Promise<void>,
  ): Promise<void> {
    const { targets } = this.#update.spec;
    try {
      this.#open = await openEpoch(this.#update, this.#sources, planned);
      this.#step = 'engines to pause';
      await this.#pauses.pause(this.#update, this.#open.epoch);
      this.#step = 'engines to install it';
      await this.#update.allOrAbort(this.#open.epoch, [this.#ends.touch(targets, this.#open.epoch)]);
      this.#installing = new Installing(this.#update, this.#open, this.#ends, this.#serving);
      await this.#installing.run((part, error) => {
        invalidateCommunicators(part);
        const { left } = this.#ends;
        for (const target of part.spec.targets) if (left.includes(target)) this.#failed.add(target);
        return onFailed(part, error);
      });
    } catch (thrown) {
      invalidateCommunicators(this.#update);
      throw thrown;
    }
  }

  /**
   * Ends its part in joins: `isComplete` if it has updated all its instances. Returns what it has installed; null if nothing.
   */
  end(updated: readonly UpdateTarget[], isComplete: boolean): Installed | null {
    const { spec, mirrors } = this.#update;
    const isKept = isComplete && this.#failed.size === 0 && spec.options.keepCopy;
    this.#sources.release(isKept);
    this.#update.end('the round is over');
    const copies = isKept ? (this.#open?.groups.flatMap((group) => group.mirrors) ?? []) : [];
    const kept = new Set(copies.map(({ path }) => path));
    spec.onUnneeded(mirrors.filter(({ path }) => !kept.has(path)));
    const ended = new Set(spec.targets.filter((target) => !this.#failed.has(target)));
    const ranks = updated.filter((target) => ended.has(target)).flatMap((target) => target.ranks);
    if (this.#open === null || ranks.length === 0) return null;
    const own = new Set(ranks);
    const streamed = [...(this.#installing?.streamed ?? [])].filter(([rank]) => own.has(rank));
    return { open: this.#open, streamed: new Map(streamed), copies };
  }
}

/** Those of the groups that were planned: ranks that are sent parts are in none. */
function invalidateCommunicators({ spec }: UpdateContext): void {
  const { targets, ranks, communicators, feeding } = spec;
  const byParts = targets.filter(({ name }) => feeding.of(name).fed === 'parts');
  const alone = new Set(byParts.flatMap((target) => target.ranks));
  const together = ranks.filter(({ rank }) => !alone.has(rank));
  for (const group of groupsOf(together)) communicators.of(group).invalidate();
}
