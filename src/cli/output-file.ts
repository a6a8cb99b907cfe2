import { accessSync, closeSync, constants, openSync, statSync, unlinkSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, UsageError } from '../errors.ts';

/** Throws `UsageError` for a file that could not be written: it is better told before the work than after it. */
export function checkOutputFile(option: string, file: string | undefined): void {
  if (file === undefined) return;
  const path = resolve(file);
  const there = statSync(path, { throwIfNoEntry: false });
  if (there?.isDirectory()) throw new UsageError(`${option} is "${file}", which is a directory`);
  try {
    if (there !== undefined) return accessSync(path, constants.W_OK);
    // Some folders that may be written take no files, as those of /proc.
    closeSync(openSync(path, 'wx'));
    unlinkSync(path);
  } catch (thrown) {
    throw new UsageError(`${option} cannot be written: ${describe(thrown)}`);
  }
}
