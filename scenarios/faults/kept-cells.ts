import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { RealResult } from './cell.ts';

/** A result, and what an update took in that run when nothing happened, in milliseconds. */
export interface KeptCell {
  readonly result: RealResult;
  readonly usual: number;
}

/** Results in a folder, a file each: a long run goes on where it was interrupted, or is shared out over several. */
export class KeptCells {
  readonly #folder: string | null;

  /** Null: none are kept. */
  constructor(folder: string | null) {
    this.#folder = folder;
    if (folder !== null) mkdirSync(folder, { recursive: true });
  }

  get(name: string): KeptCell | null {
    if (this.#folder === null) return null;
    try {
      return JSON.parse(readFileSync(this.#path(name), 'utf8')) as KeptCell;
    } catch {
      return null;
    }
  }

  keep(name: string, cell: KeptCell): void {
    if (this.#folder === null) return;
    writeFileSync(`${this.#path(name)}.new`, JSON.stringify(cell));
    renameSync(`${this.#path(name)}.new`, this.#path(name));
  }

  #path(name: string): string {
    return join(this.#folder!, `${name.replace(/[^A-Za-z]+/g, '-')}.json`);
  }
}
