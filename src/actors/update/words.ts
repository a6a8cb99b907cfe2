import { fromWire, type WeightcastError } from '../../errors.ts';
import type { UpdateTarget } from './context.ts';

type Engine = Pick<UpdateTarget, 'name' | 'endpoint'>;

/** What the errors of updates say of the instances that need someone's attention, and what to do about them. */

export function brokenWords({ name, endpoint }: Engine, isPaused: boolean): string {
  if (!isPaused) return `instance ${name} is broken: update it again before it is used`;
  const elsewhere = `from another cluster: pause "caller", then weightcast resume --endpoint ${endpoint}`;
  return `instance ${name} is broken and stays paused: update it again (${elsewhere})`;
}

/** Nobody of the cluster is left to try again. */
export function stuckWords({ name, endpoint }: Engine, error: WeightcastError): string {
  return `instance ${name} is still paused (${error.message}): weightcast resume --endpoint ${endpoint}`;
}

/** The cluster goes on trying. */
export function resumingWords({ name, endpoint }: Engine, error: WeightcastError): string {
  return `instance ${name} is still paused (${error.message}): it is tried to be resumed while the cluster runs, and weightcast resume --endpoint ${endpoint} does so, too`;
}

export function staleWords({ name, endpoint }: UpdateTarget, { message }: WeightcastError): string {
  const what = `POST /reset_prefix_cache to ${endpoint}, or update it again`;
  return `instance ${name} may answer from caches that the old weights computed (${message}): ${what}`;
}

export function mislabelledWords({ name }: UpdateTarget, version: string, said: string): string {
  return `instance ${name} was told that its weights are ${version}, and says that they are ${said}`;
}

/** `stillRuns`: why the engine could not be paused again. */
export function answeredWords(
  { name }: UpdateTarget,
  seconds: number,
  stillRuns: WeightcastError | null,
): string {
  const until = stillRuns === null ? '' : `, and still does (${stillRuns.message})`;
  return `instance ${name} answered requests for ${seconds.toFixed(1)} s before that${until}`;
}

export function dueWords({ name, endpoint }: UpdateTarget): string {
  return `instance ${name} may still pause, which it was asked to and has not answered: weightcast resume --endpoint ${endpoint}`;
}

/** An error of the same class that says more; its cause is the error. */
export function explained(error: WeightcastError, words: readonly string[]): WeightcastError {
  if (words.length === 0) return error;
  const message = [error.message, ...words].join('; ');
  return Object.assign(fromWire({ code: error.code, message }), { cause: error });
}
