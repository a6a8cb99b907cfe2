import { mkdirSync, readFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { dirname } from 'node:path';
import { replaceFile } from '../../src/processes/replace-file.ts';
import type { RealResult } from './cell.ts';

/** A result, and the circumstances that its times depend on. */
export interface MeasuredCell {
  readonly result: RealResult;
  /** What an update took in that run when nothing happened, in milliseconds. */
  readonly usual: number;
  /** ISO 8601. */
  readonly date: string;
  /** Processes that wanted to run, on average of the minute before; null if nobody looked. */
  readonly load: number | null;
}

/** As it is before a cell begins. */
export function circumstances(): Pick<MeasuredCell, 'date' | 'load'> {
  return { date: new Date().toISOString(), load: Number(loadavg()[0]!.toFixed(1)) };
}

/**
 * What was measured of real cells, by their names, in a file of JSON: a run of some cells keeps what there is of the others, and
 * one that was interrupted goes on.
 */
export class MeasuredCells {
  readonly #path: string | null;
  readonly #cells: Map<string, MeasuredCell>;

  /** `path`: null if nothing is kept. */
  constructor(path: string | null) {
    this.#path = path;
    this.#cells = new Map(Object.entries(path === null ? {} : read(path)));
  }

  get(name: string): MeasuredCell | null {
    return this.#cells.get(name) ?? null;
  }

  put(name: string, cell: MeasuredCell): void {
    this.#cells.set(name, cell);
    if (this.#path === null) return;
    mkdirSync(dirname(this.#path), { recursive: true });
    const sorted = [...this.#cells].sort(([one], [other]) => (one < other ? -1 : 1));
    // A cell on each line, so that changes can be read.
    const lines = sorted.map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`);
    replaceFile(this.#path, `{\n${lines.join(',\n')}\n}\n`);
  }
}

function read(path: string): Record<string, MeasuredCell> {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Record<string, MeasuredCell>;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return {};
    throw thrown;
  }
}
