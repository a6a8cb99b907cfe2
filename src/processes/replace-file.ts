import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/**
 * Writes all of a file or nothing, for its owner only. The name that is written first begins differently, so that one that
 * the writer died in is never taken for the file. Throws what `node:fs` does.
 */
export function replaceFile(path: string, content: string | Uint8Array): void {
  const unfinished = unfinishedOf(path);
  try {
    writeFileSync(unfinished, content, { mode: 0o600 });
    renameSync(unfinished, path);
  } catch (thrown) {
    rmSync(unfinished, { force: true });
    throw thrown;
  }
}

/** The same, while the process goes on. Of one path only one at a time. */
export async function replaceFileMeanwhile(path: string, content: Uint8Array): Promise<void> {
  const unfinished = unfinishedOf(path);
  try {
    await writeFile(unfinished, content, { mode: 0o600 });
    await rename(unfinished, path);
  } catch (thrown) {
    await rm(unfinished, { force: true });
    throw thrown;
  }
}

function unfinishedOf(path: string): string {
  return join(dirname(path), `new-${basename(path)}`);
}

/** With no room left it stays as it was. */
export function replaceFileIfRoom(path: string, content: string): void {
  try {
    replaceFile(path, content);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== 'ENOSPC') throw thrown;
  }
}
