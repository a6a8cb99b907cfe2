import { accessSync, constants, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { describe, UsageError } from '../errors.ts';

/** Throws `UsageError` for a file that could not be written: it is better told before the work than after it. */
export function checkOutputFile(option: string, file: string | undefined): void {
  if (file === undefined) return;
  const path = resolve(file);
  const there = statSync(path, { throwIfNoEntry: false });
  if (there?.isDirectory()) throw new UsageError(`${option} is ${file}, which is a directory`);
  try {
    accessSync(there === undefined ? dirname(path) : path, constants.W_OK);
  } catch (thrown) {
    throw new UsageError(`${option} cannot be written: ${describe(thrown)}`);
  }
}
