import type { InstanceReport } from '../protocol/update-values.ts';

type Fed = Pick<InstanceReport, 'fed' | 'whyWhole'>;

/** Of an instance that was sent nothing. */
export const notFed: Fed = { fed: null, whyWhole: null };

/** Why what was known of an engine's workers holds no longer. */
export const otherEngine = 'its engine was restarted, or updated by someone else';

/** What the ranks of each instance are sent in one update, by the instance's name: whole tensors, or parts. */
export class Feeding {
  readonly #demanded = new Map<string, string>();
  readonly #fed = new Map<string, Fed>();

  /** What was known of its workers' parts holds no longer: `why`. */
  demandWhole(instance: string, why: string): void {
    this.#demanded.set(instance, why);
  }

  /** Null if nothing demands whole tensors. */
  demandsWhole(instance: string): string | null {
    return this.#demanded.get(instance) ?? null;
  }

  note(instance: string, fed: Fed): void {
    this.#fed.set(instance, fed);
  }

  of(instance: string): Fed {
    return this.#fed.get(instance) ?? notFed;
  }
}
