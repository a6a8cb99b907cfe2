import { dropCaches, resumeCommand } from '../../engines/remedies.ts';
import { DeadlineError, fromWire, type WeightcastError } from '../../errors.ts';
import type { InstanceStatus } from '../protocol/status-values.ts';
import type { UpdateTarget } from './context.ts';

type Engine = Pick<UpdateTarget, 'name' | 'endpoint' | 'engine'>;

/** What the errors of updates say of the instances that need someone's attention, and what to do about them. */

/** Nobody knows what the workers of one that was being updated got, when its supervisor is gone. */
export function mayBeMixed({ state }: Pick<InstanceStatus, 'state'>): boolean {
  return state === 'broken' || state === 'updating';
}

export function brokenWords(instance: Engine, isPaused: boolean): string {
  const { name } = instance;
  if (!isPaused) return `instance ${name} is broken: update it again before it is used`;
  const elsewhere = `from another cluster: pause "caller", then ${resumeCommand(instance)}`;
  return `instance ${name} is broken and stays paused: update it again (${elsewhere})`;
}

/** Nobody of the cluster is left to try again. */
export function stuckWords(instance: Engine, error: WeightcastError): string {
  return `instance ${instance.name} is still paused (${error.message}): ${resumeCommand(instance)}`;
}

/** The same, of one that was resumed, and has not answered that it was to pause. */
export function lateWords(instance: Engine): string {
  return `instance ${instance.name} was resumed, and may still pause, which it was asked to and has not answered: ${resumeCommand(instance)} if it does`;
}

/** The cluster goes on trying. */
export function resumingWords(instance: Engine, error: WeightcastError): string {
  return `instance ${instance.name} is still paused (${error.message}), and is tried to be resumed until the cluster ends: ${resumeCommand(instance)}`;
}

export function staleWords(instance: Engine, { message }: WeightcastError): string {
  const what = `${dropCaches(instance)}, or update it again`;
  return `instance ${instance.name} may answer from caches that the old weights computed (${message}): ${what}`;
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

/** The cluster asks it again and again. */
export function dueWords(instance: Engine): string {
  return `instance ${instance.name} may still pause, which it was asked to and has not answered: it counts as paused until it is found to run, and is resumed if it pauses after that: ${resumeCommand(instance)}`;
}

/** Of an engine that has let the deadline of a step pass: `isStep`, and not the update's. */
export function lateForStep(error: WeightcastError, isStep: boolean): WeightcastError {
  if (!isStep || !(error instanceof DeadlineError)) return error;
  return explained(error, ['give it more time with stepTimeoutMilliseconds (--step-timeout)']);
}

/** An error of the same class that says more; its cause is the error. */
export function explained(error: WeightcastError, words: readonly string[]): WeightcastError {
  if (words.length === 0) return error;
  const message = [error.message, ...words].join('; ');
  return Object.assign(fromWire({ code: error.code, message }), { cause: error });
}
