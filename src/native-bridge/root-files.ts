import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A file's text, without white space around it; null if it cannot be read. `root`: of another machine's files, for tests. */
export function textOf(root: string, path: string): string | null {
  try {
    return readFileSync(join(root, path), 'utf8').trim();
  } catch {
    return null;
  }
}

/** What is in a folder, sorted; nothing if it cannot be read. */
export function namesIn(root: string, path: string): string[] {
  try {
    return readdirSync(join(root, path)).sort();
  } catch {
    return [];
  }
}
