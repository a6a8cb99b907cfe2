import type { Command } from 'commander';
import { UsageError } from '../errors.ts';

/** An option that was given, and would do nothing, is a mistake. Throws `UsageError` for the first of `names` that was. */
export function refuseUnused(command: Command, names: readonly string[], why: string): void {
  const given = names.find((name) => command.getOptionValueSource(name) === 'cli');
  if (given === undefined) return;
  const option = given.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new UsageError(`--${option} ${why}`);
}
