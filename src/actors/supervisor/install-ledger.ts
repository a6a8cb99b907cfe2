import { type Held, placeKey } from '../../plan/live-weights.ts';
import type { RememberedInstalls } from '../protocol/remembered-values.ts';
import type { InstallLedger } from '../update/context.ts';

/** Of names and digests together. The largest models have some thousand tensors a worker. */
const keptBytes = 64 * 2 ** 20;
const wordBytes = 8;

/** What engine workers held after updates, by version and place. The least recently used is dropped first. */
export class Installs implements InstallLedger {
  readonly #layouts = new Map<string, readonly string[]>();
  readonly #held = new Map<string, Held & { readonly version: string; readonly isConfirmed: boolean }>();
  readonly #keptBytes: number;
  #isChanged = false;

  constructor(bytes = keptBytes) {
    this.#keptBytes = bytes;
  }

  /** Takes over what an earlier supervisor has noted. */
  recall({ layouts, held }: RememberedInstalls): void {
    for (const [layout, names] of Object.entries(layouts)) this.#layouts.set(layout, names.split('\n'));
    for (const { version, isConfirmed, ...one } of held) {
      const names = this.#layouts.get(one.layout);
      if (names === undefined) continue;
      this.#held.set(`${version} ${placeKey(one.place)}`, { ...one, version, names, isConfirmed });
    }
  }

  /** What a later supervisor has to know; null if that has not changed since it was asked for last. */
  takeRecord(): RememberedInstalls | null {
    if (!this.#isChanged) return null;
    this.#isChanged = false;
    const layouts = [...this.#layouts].map(([layout, names]) => [layout, names.join('\n')]);
    const held = [...this.#held.values()].map(({ names: _, ...one }) => one);
    return { layouts: Object.fromEntries(layouts), held };
  }

  layouts(): ReadonlyMap<string, readonly string[]> {
    return new Map(this.#layouts);
  }

  earlier(version: string, key: string): Held | null {
    return this.#held.get(`${version} ${key}`) ?? null;
  }

  note(version: string, held: Held, isConfirmed: boolean): void {
    this.#renew(this.#layouts, held.layout, this.#layouts.get(held.layout) ?? held.names);
    const key = `${version} ${placeKey(held.place)}`;
    const names = this.#layouts.get(held.layout)!;
    // The first one stays: later ones were compared with it.
    const { place, layout, digests } = held;
    const before = this.#held.get(key) ?? { version, place, layout, digests, names, isConfirmed };
    this.#renew(this.#held, key, { ...before, isConfirmed: isConfirmed || before.isConfirmed });
    this.#shrink();
    this.#isChanged = true;
  }

  doubt(version: string, key: string): void {
    const known = `${version} ${key}`;
    if (this.#held.get(known)?.isConfirmed !== false) return;
    this.#held.delete(known);
    this.#isChanged = true;
  }

  #renew<T>(table: Map<string, T>, key: string, value: T): void {
    table.delete(key);
    table.set(key, value);
  }

  #shrink(): void {
    const ofNames = () => sum([...this.#layouts.values()], bytesOfNames);
    const ofDigests = () => sum([...this.#held.values()], ({ digests }) => digests.length * wordBytes);
    while (this.#layouts.size > 1 && ofNames() > this.#keptBytes / 2) drop(this.#layouts);
    while (this.#held.size > 1 && ofDigests() > this.#keptBytes / 2) drop(this.#held);
    // What an old version held under names that are forgotten is not worth its own copy of them.
    for (const [key, { layout }] of this.#held) if (!this.#layouts.has(layout)) this.#held.delete(key);
  }
}

function drop(table: Map<string, unknown>): void {
  table.delete(table.keys().next().value!);
}

function bytesOfNames(names: readonly string[]): number {
  return sum(names, ({ length }) => length);
}

function sum<T>(values: readonly T[], of: (value: T) => number): number {
  return values.reduce((total, value) => total + of(value), 0);
}
