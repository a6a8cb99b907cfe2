import { UsageError } from '../errors.ts';

/** Throws `UsageError` unless the option is a whole number of at least `least`. */
export function checkWhole(what: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new UsageError(`${what} must be a whole number of at least ${least}, not ${value}`);
}
