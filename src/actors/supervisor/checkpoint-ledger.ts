import { strict as assert } from 'node:assert';
import { BusyError, UsageError } from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { sizesOf } from '../../plan/segment-sets.ts';
import type { CheckpointStatus, OwnSegment, Registered, Segment } from '../protocol/checkpoint-values.ts';
import type { RememberedCheckpoint } from '../protocol/remembered-values.ts';
import type { CheckpointRecord } from './lasting-memory.ts';

/** Segments that weightcast created for one checkpoint. The object identifies the set, also for the checkpoints that reuse it. */
export type SegmentSet = readonly OwnSegment[];

/** What a change of the ledger has released. */
export interface Released {
  readonly segments: readonly Segment[];
  /** Layouts whose manifests and plans the planner need not keep. */
  readonly layouts: readonly string[];
}

interface Entry {
  registered: Registered;
  /** The segments created for it; empty if all of its tensors are in adopted files. */
  readonly created: SegmentSet;
  /** The same as a set that can be reused; null if there are none, or some of them are gone. */
  reusable: SegmentSet | null;
  /** Updates that read it. */
  readers: number;
  /** Other clusters may read it at any time. */
  isExported: boolean;
}

/** Registered checkpoints hold host memory: more of them are a leak. */
const checkpointLimit = 16;
/** Sets that are being filled at a time. */
const takenLimit = 8;

/**
 * The ledger of checkpoints in host memory. It has no effects: its methods return what is no longer needed.
 *
 * The segments of a checkpoint that is replaced or unregistered become spare: the next checkpoint of the same sizes reuses
 * their pages, pins and plans. There are at most `spareLimit` spare sets, and one of the same sizes. Segments that are
 * being read become spare when the last reader has ended. Segments that another cluster may read are never reused: a
 * reader could see two checkpoints mixed.
 *
 * A set is taken while it is filled, and then registered, put back or discarded.
 */
export class CheckpointLedger {
  readonly #spareLimit: number;
  readonly #entries = new Map<string, Entry>();
  /** Unregistered, but still being read. */
  readonly #retired = new Set<Entry>();
  /** Each with the layout that it held last; least recently used first. */
  readonly #spare = new Map<SegmentSet, string | null>();
  readonly #taken = new Map<SegmentSet, string | null>();

  constructor(spareLimit: number) {
    this.#spareLimit = spareLimit;
  }

  /** Takes over what an earlier supervisor had registered, and kept. */
  recall(checkpoints: readonly RememberedCheckpoint[], spare: readonly SegmentSet[]): void {
    for (const set of spare) this.#keep(set, null);
    for (const { registered, created, isReusable, isExported } of checkpoints) {
      const reusable = isReusable ? created : null;
      this.#entries.set(registered.status.checkpoint, {
        registered,
        created,
        reusable,
        readers: 0,
        isExported,
      });
    }
  }

  /** What a later supervisor has to know of what is registered. */
  get records(): CheckpointRecord[] {
    return [...this.#entries.values()].map(({ registered, created, reusable, isExported }) => ({
      registered,
      created: [...created],
      isReusable: reusable !== null,
      isExported,
    }));
  }

  /** Paths on a host of all segments that {@link holds} is true for. */
  pathsOn(host: string): string[] {
    return [...this.#contents().segments.values()].flatMap((one) => (one.host === host ? [one.path] : []));
  }

  // ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────

  /** Throws `UsageError` if no checkpoint of that name is registered. */
  get(name: string): Registered {
    return this.#entry(name).registered;
  }

  /** The encoded manifest of a checkpoint with that layout that is registered, or still read; null if there is none. */
  manifestOf(layout: string): Uint8Array | null {
    const entries = [...this.#entries.values(), ...this.#retired];
    return entries.find(({ registered }) => registered.layout === layout)?.registered.manifest ?? null;
  }

  statuses(): CheckpointStatus[] {
    return [...this.#entries.values()].map(({ registered }) => registered.status);
  }

  /** Throws `UsageError` if too many checkpoints are registered. */
  checkRoom(name: string): void {
    if (this.#entries.size < checkpointLimit || this.#entries.has(name)) return;
    throw new UsageError(
      `${checkpointLimit} checkpoints are registered, the maximum; unregister one before ${name}`,
    );
  }

  /** Replaces the checkpoint of that name, if there is one. `set` was taken; null if no segments were created. */
  register(registered: Registered, set: SegmentSet | null): Released {
    return this.#change(() => {
      if (set !== null) assert(this.#taken.delete(set), 'a registered set was taken before');
      const { checkpoint } = registered.status;
      const old = this.#entries.get(checkpoint);
      this.#entries.set(checkpoint, {
        registered,
        created: set ?? [],
        reusable: set,
        readers: 0,
        isExported: false,
      });
      if (old !== undefined) this.#retire(old);
    });
  }

  /** Throws `UsageError` if no checkpoint of that name is registered, and `BusyError` while it is being read. */
  unregister(name: string): Released {
    const entry = this.#entry(name);
    if (entry.readers > 0)
      throw new BusyError(`checkpoint ${name} is being read by an update; retry when that has ended`);
    return this.#change(() => {
      this.#entries.delete(name);
      this.#retire(entry);
    });
  }

  /** The segments of a checkpoint stay as they are until the returned function is called, once. */
  read(name: string): () => Released {
    const entry = this.#entry(name);
    entry.readers += 1;
    return () =>
      this.#change(() => {
        entry.readers -= 1;
        if (this.#retired.has(entry) && entry.readers === 0) this.#retire(entry);
      });
  }

  /** From now on other clusters may read the checkpoint until it is released. Throws `UsageError`. */
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

  /** The one that became spare last comes first. */
  get spareSets(): SegmentSet[] {
    return [...this.#spare.keys()].reverse();
  }

  get spareBytes(): number {
    return this.spareSets.flat().reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Takes a new set, or a spare one that is reused. Throws `BusyError` if too many are being filled. */
  take(set: SegmentSet): void {
    if (this.#taken.size >= takenLimit)
      throw new BusyError(`${takenLimit} checkpoints are being loaded, the maximum; retry when one is done`);
    const layout = this.#spare.get(set) ?? null;
    this.#spare.delete(set);
    this.#taken.set(set, layout);
  }

  isSpare(set: SegmentSet): boolean {
    return this.#spare.has(set);
  }

  /** A set that was taken and is complete becomes spare. */
  putBack(set: SegmentSet): Released {
    return this.#change(() => {
      const layout = this.#taken.get(set) ?? null;
      assert(this.#taken.delete(set), 'a set that is put back was taken before');
      this.#keep(set, layout);
    });
  }

  /** Drops a set that was taken: it may be incomplete, or not even exist. */
  discard(set: SegmentSet): Released {
    return this.#change(() => assert(this.#taken.delete(set), 'a discarded set was taken before'));
  }

  releaseSpare(): Released {
    return this.#change(() => this.#spare.clear());
  }

  /** All segments of a host are gone: no set that has some of them is reused. */
  memoryLost(host: string): Released {
    const isAffected = (set: SegmentSet) => set.some((segment) => segment.host === host);
    return this.#change(() => {
      for (const set of this.#spare.keys()) if (isAffected(set)) this.#spare.delete(set);
      for (const entry of [...this.#entries.values(), ...this.#retired]) {
        if (entry.reusable !== null && isAffected(entry.reusable)) entry.reusable = null;
        const { registered, created } = entry;
        const known = registered.lost.filter((segment) => segment.host !== host);
        const lost = created.filter((segment) => segment.host === host).map(({ path }) => ({ path, host }));
        const copies = registered.copies.filter((copy) => copy.host !== host);
        entry.registered = { ...registered, copies, lost: [...known, ...lost] };
      }
    });
  }

  /** Whether a segment belongs to a checkpoint, or to a set that is spare or being filled. */
  holds({ path, host }: Segment): boolean {
    const isSame = (segment: Segment) => segment.path === path && segment.host === host;
    const registered = [...this.#entries.values(), ...this.#retired].map((entry) => entry.registered);
    return (
      registered.some(({ segments, copies }) => segments.some(isSame) || copies.some(isSame)) ||
      [...this.#spare.keys(), ...this.#taken.keys()].some((set) => set.some(isSame))
    );
  }

  get takenSets(): number {
    return this.#taken.size;
  }

  // ── what a change releases ───────────────────────────────────────────────────────────────────────────────────

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new UsageError(`no checkpoint ${name} is registered`);
    return entry;
  }

  #retire(entry: Entry): void {
    const { registered, reusable, readers, isExported } = entry;
    if (readers > 0) {
      this.#retired.add(entry);
      return;
    }
    this.#retired.delete(entry);
    if (reusable !== null && !isExported) this.#keep(reusable, registered.layout);
  }

  #keep(set: SegmentSet, layout: string | null): void {
    const sizes = sizesOf(set);
    for (const other of this.#spare.keys()) if (sizesOf(other) === sizes) this.#spare.delete(other);
    this.#spare.set(set, layout);
    while (this.#spare.size > this.#spareLimit) this.#spare.delete(this.#spare.keys().next().value!);
  }

  #change(apply: () => void): Released {
    const before = this.#contents();
    apply();
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
