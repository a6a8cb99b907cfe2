import { statSync } from 'node:fs';
import type { Mapping } from '../native-bridge/memory.ts';

/** Between two looks whether their files were removed, which keeps their memory. */
const lookMilliseconds = 2_000;

/**
 * Mappings of files that a publisher will write again: they stay mapped and pinned from one version to the next. A mapping
 * holds its file's inode, so that another file cannot have the same key.
 */
export class SpareMappings {
  readonly #drop: (mapping: Mapping) => void;
  readonly #mappings = new Map<string, Mapping>();
  #looking: NodeJS.Timeout | null = null;

  /** `drop`: what becomes of those whose files are gone. */
  constructor(drop: (mapping: Mapping) => void) {
    this.#drop = drop;
  }

  /** `key`: of `reusedFile`. */
  keep(key: string, mapping: Mapping): void {
    const before = this.#mappings.get(key);
    if (before !== undefined) this.#drop(before);
    this.#mappings.set(key, mapping);
    this.#looking ??= setInterval(() => this.#look(), lookMilliseconds).unref();
  }

  /** Null if there is none. */
  take(key: string): Mapping | null {
    const mapping = this.#mappings.get(key) ?? null;
    this.#mappings.delete(key);
    return mapping;
  }

  close(): void {
    for (const mapping of this.#mappings.values()) this.#drop(mapping);
    this.#mappings.clear();
    this.#look();
  }

  #look(): void {
    for (const [key, mapping] of this.#mappings) {
      if (statSync(mapping.path, { throwIfNoEntry: false }) !== undefined) continue;
      this.#mappings.delete(key);
      this.#drop(mapping);
    }
    if (this.#mappings.size > 0) return;
    if (this.#looking !== null) clearInterval(this.#looking);
    this.#looking = null;
  }
}
