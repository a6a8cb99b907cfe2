import { type Held, placeKey } from '../../plan/live-weights.ts';
import type { InstallLedger } from '../update/context.ts';

/** Of names and digests together. The largest models have some thousand tensors a worker. */
const keptBytes = 64 * 2 ** 20;
const wordBytes = 8;

/** What engine workers held after updates, by version and place. The least recently used is dropped first. */
export class Installs implements InstallLedger {
  readonly #layouts = new Map<string, readonly string[]>();
  readonly #held = new Map<string, Held & { readonly isConfirmed: boolean }>();
  readonly #keptBytes: number;

  constructor(bytes = keptBytes) {
    this.#keptBytes = bytes;
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
    const before = this.#held.get(key) ?? { ...held, names, isConfirmed };
    this.#renew(this.#held, key, { ...before, isConfirmed: isConfirmed || before.isConfirmed });
    this.#shrink();
  }

  doubt(version: string, key: string): void {
    const known = `${version} ${key}`;
    if (this.#held.get(known)?.isConfirmed === false) this.#held.delete(known);
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
