import { strict as assert } from 'node:assert';
import { UsageError } from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { sizesOf } from '../../plan/segment-sets.ts';
import type { CheckpointStatus, OwnSegment, Registered, Segment } from '../protocol/checkpoint-values.ts';

/** Segments that weightcast made for one checkpoint. A set keeps its identity from one checkpoint to the next. */
export type SegmentSet = readonly OwnSegment[];

/** What nobody on the shelf needs any more. */
export interface Dropped {
  readonly segments: readonly Segment[];
  /** What the planner remembers plans by. */
  readonly layouts: readonly string[];
}

interface Entry {
  registered: Registered;
  /** What was made for it; empty where all tensors lie in files that were adopted. */
  readonly made: SegmentSet;
  /** The same while it can be filled again; null where there is nothing, or some of it is gone. */
  set: SegmentSet | null;
  /** Those who read it. */
  readers: number;
  /** Other clusters may read it, who do not say when. */
  isExported: boolean;
}

/** Registered checkpoints hold host memory; more than this is a leak and not a plan. */
const checkpointLimit = 16;
/** Sets that are being filled. */
const takenLimit = 8;

/**
 * The ledger of checkpoints in host memory, without any effect. The segments of one that is replaced or unregistered
 * become spare, for the next checkpoint of the same sizes: pages, pins and plans are there already. There are at most
 * `spareLimit` spare sets, and one of the same sizes. What somebody still reads is not spare, and what another cluster
 * may have begun to read never will be: it would read two checkpoints as one.
 *
 * A set is taken while it is filled, and put back, registered or discarded after that.
 */
export class CheckpointShelf {
  readonly #spareLimit: number;
  readonly #entries = new Map<string, Entry>();
  /** No longer registered, but still read. */
  readonly #retired = new Set<Entry>();
  /** Each with the layout that was last in it; the longest unused first. */
  readonly #spare = new Map<SegmentSet, string | null>();
  readonly #taken = new Map<SegmentSet, string | null>();

  constructor(spareLimit: number) {
    this.#spareLimit = spareLimit;
  }

  // ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────

  /** Throws `UsageError` if there is none of that name. */
  get(name: string): Registered {
    return this.#entry(name).registered;
  }

  statuses(): CheckpointStatus[] {
    return [...this.#entries.values()].map(({ registered }) => registered.status);
  }

  /** Throws `UsageError` if there is no room for a checkpoint of that name. */
  checkRoom(name: string): void {
    if (this.#entries.size < checkpointLimit || this.#entries.has(name)) return;
    throw new UsageError(`${checkpointLimit} checkpoints are registered; there is no room for ${name}`);
  }

  /** Puts a checkpoint in the place of the one of that name, if there is one. Its set has been taken. */
  register(registered: Registered, set: SegmentSet | null): Dropped {
    return this.#change(() => {
      if (set !== null) assert(this.#taken.delete(set), 'a set is taken before it is filled');
      const { checkpoint } = registered.status;
      const old = this.#entries.get(checkpoint);
      this.#entries.set(checkpoint, { registered, made: set ?? [], set, readers: 0, isExported: false });
      if (old !== undefined) this.#retire(old);
    });
  }

  /** Throws `UsageError` if there is none of that name, or somebody reads it. */
  unregister(name: string): Dropped {
    const entry = this.#entry(name);
    if (entry.readers > 0) throw new UsageError(`checkpoint ${name} is being read; unregister it after that`);
    return this.#change(() => {
      this.#entries.delete(name);
      this.#retire(entry);
    });
  }

  /** The segments of a checkpoint stay as they are until the returned function is called, once. */
  read(name: string): () => Dropped {
    const entry = this.#entry(name);
    entry.readers += 1;
    return () =>
      this.#change(() => {
        entry.readers -= 1;
        if (this.#retired.has(entry) && entry.readers === 0) this.#retire(entry);
      });
  }

  /** Those who are told of a checkpoint's segments may read them until they are gone. Throws `UsageError`. */
  export(name: string): Registered {
    const entry = this.#entry(name);
    entry.isExported = true;
    return entry.registered;
  }

  /** Throws `UsageError`. */
  addCopies(name: string, copies: readonly Copy[]): void {
    const entry = this.#entry(name);
    entry.registered = { ...entry.registered, copies: [...entry.registered.copies, ...copies] };
  }

  // ── sets of segments ─────────────────────────────────────────────────────────────────────────────────────────

  /** The last one that became spare comes first. */
  get spareSets(): SegmentSet[] {
    return [...this.#spare.keys()].reverse();
  }

  get spareBytes(): number {
    return this.spareSets.flat().reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** For a set that is made, or a spare one that is filled again. Throws `UsageError` if too many are under way. */
  take(set: SegmentSet): void {
    if (this.#taken.size >= takenLimit)
      throw new UsageError(`${takenLimit} checkpoints are being loaded; there is no room for one more`);
    const layout = this.#spare.get(set) ?? null;
    this.#spare.delete(set);
    this.#taken.set(set, layout);
  }

  isSpare(set: SegmentSet): boolean {
    return this.#spare.has(set);
  }

  /** A set that was taken, whole as it is, becomes spare. */
  putBack(set: SegmentSet): Dropped {
    return this.#change(() => {
      const layout = this.#taken.get(set) ?? null;
      assert(this.#taken.delete(set), 'what is put back was taken');
      this.#keep(set, layout);
    });
  }

  /** A set that was taken is of no use any more: nobody knows what it holds, or if it is there. */
  discard(set: SegmentSet): Dropped {
    return this.#change(() => assert(this.#taken.delete(set), 'what is discarded was taken'));
  }

  releaseSpare(): Dropped {
    return this.#change(() => this.#spare.clear());
  }

  /** All segments of a host are gone: none is read any more, and no set that has some is filled again. */
  memoryLost(host: string): Dropped {
    const isThere = (set: SegmentSet) => set.some((segment) => segment.host === host);
    return this.#change(() => {
      for (const set of this.#spare.keys()) if (isThere(set)) this.#spare.delete(set);
      for (const entry of [...this.#entries.values(), ...this.#retired]) {
        if (entry.set !== null && isThere(entry.set)) entry.set = null;
        const { registered, made } = entry;
        const known = registered.lost.filter((segment) => segment.host !== host);
        const lost = made.filter((segment) => segment.host === host).map(({ path }) => ({ path, host }));
        const copies = registered.copies.filter((copy) => copy.host !== host);
        entry.registered = { ...registered, copies, lost: [...known, ...lost] };
      }
    });
  }

  /** Whether a segment belongs to a checkpoint, or is kept for one. */
  holds({ path, host }: Segment): boolean {
    return this.#contents().segments.has(keyOf({ path, host }));
  }

  get takenSets(): number {
    return this.#taken.size;
  }

  // ── what follows from a change ───────────────────────────────────────────────────────────────────────────────

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new UsageError(`no checkpoint ${name} is registered`);
    return entry;
  }

  #retire(entry: Entry): void {
    const { registered, set, readers, isExported } = entry;
    if (readers > 0) {
      this.#retired.add(entry);
      return;
    }
    this.#retired.delete(entry);
    if (set !== null && !isExported) this.#keep(set, registered.layout);
  }

  #keep(set: SegmentSet, layout: string | null): void {
    const sizes = sizesOf(set);
    for (const other of this.#spare.keys()) if (sizesOf(other) === sizes) this.#spare.delete(other);
    this.#spare.set(set, layout);
    while (this.#spare.size > this.#spareLimit) this.#spare.delete(this.#spare.keys().next().value!);
  }

  #change(make: () => void): Dropped {
    const before = this.#contents();
    make();
    const after = this.#contents();
    return {
      segments: [...before.segments].flatMap(([key, segment]) => (after.segments.has(key) ? [] : [segment])),
      layouts: [...before.layouts].filter((layout) => !after.layouts.has(layout)),
    };
  }

  #contents() {
    const registered = [...this.#entries.values(), ...this.#retired].map((entry) => entry.registered);
    const sets = [...this.#spare, ...this.#taken];
    const segments = [
      ...registered.flatMap((one) => [one.segments, one.copies]),
      ...sets.map(([set]) => set),
    ].flat();
    return {
      segments: new Map(segments.map(({ path, host }) => [keyOf({ path, host }), { path, host }])),
      layouts: new Set([
        ...registered.map((one) => one.layout),
        ...sets.flatMap(([, layout]) => layout ?? []),
      ]),
    };
  }
}

function keyOf({ path, host }: Segment): string {
  return `${host}\0${path}`;
}
