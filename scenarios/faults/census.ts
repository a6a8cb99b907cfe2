import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isRunning } from '../../src/processes/is-running.ts';

/** What all processes of a run hold. */
export interface Census {
  readonly pids: readonly number[];
  /** Files in /dev/shm, and their bytes. */
  readonly files: readonly string[];
  readonly bytes: number;
  /** Open descriptors, by process. */
  readonly descriptors: ReadonlyMap<number, number>;
}

/** `mark`: what the environment of all of them has. */
export function takeCensus(mark: string): Census {
  const pids = processesWith(mark);
  const files = filesBelow('/dev/shm');
  const bytes = files.reduce(
    (sum, file) => sum + (statSync(file, { throwIfNoEntry: false })?.blocks ?? 0) * 512,
    0,
  );
  const descriptors = new Map(pids.map((pid) => [pid, descriptorsOf(pid)]));
  return { pids, files, bytes, descriptors };
}

/** Also of those whose parents have died. */
export function processesWith(mark: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && environmentOf(name).includes(mark))
    .map(Number)
    .filter((pid) => pid !== process.pid && isRunning(pid));
}

export function commandOf(pid: number): string {
  return contentOf(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
}

function environmentOf(pid: string): string {
  return contentOf(`/proc/${pid}/environ`);
}

/** Nothing of one that has ended. */
export function contentOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // It has ended, or is another user's.
    return '';
  }
}

function descriptorsOf(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/fd`).length;
  } catch {
    return 0;
  }
}

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}
