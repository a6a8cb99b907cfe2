import { asFailure, type WeightcastError } from '../../src/errors.ts';
import type { UpdateReport } from '../../src/index.ts';

export type Outcome = { readonly value: unknown } | { readonly error: WeightcastError };

/** A request, and what has become of it. */
export class Watched {
  outcome: Outcome | null = null;
  at = Number.POSITIVE_INFINITY;

  constructor(work: Promise<unknown>) {
    work.then(
      (value) => this.#settle({ value }),
      (error) => this.#settle({ error: asFailure(error) }),
    );
  }

  #settle(outcome: Outcome): void {
    this.outcome = outcome;
    this.at = Date.now();
  }
}

/** Of the error that it was, or of the first instance that has one; null if all is well. */
export function messageOf(outcome: Outcome | null): string | null {
  if (outcome === null) return null;
  if ('error' in outcome) return outcome.error.message;
  const instances = (outcome.value as UpdateReport | null)?.instances ?? [];
  return instances.map(({ error }) => error?.message).find((message) => message !== undefined) ?? null;
}

/** In a few words. */
export function answerOf(outcome: Outcome | null): string {
  if (outcome === null) return 'none';
  if ('error' in outcome) return outcome.error.code.replace('WEIGHTCAST_', '');
  const instances = (outcome.value as UpdateReport | null)?.instances ?? [];
  const failed = instances.filter((one) => 'outcome' in one && one.outcome !== 'updated');
  if (failed.length === 0) return 'succeeded';
  const broken = failed.filter(({ outcome: one }) => one === 'broken').length;
  return `${instances.length - failed.length} updated, ${broken} broken, ${failed.length - broken} unchanged`;
}
