import { UsageError } from '../../errors.ts';
import type { AnswersAsked } from '../protocol/answers.ts';
import type { UpdateTarget } from '../update/context.ts';
import type { InstanceRegistry } from './instance-registry.ts';

/**
 * The instance with whose answers those of the targets are to agree; null if there is none. Throws `UsageError` if it does
 * not serve the version, or a target cannot be asked.
 */
export function agreementOf(
  instances: InstanceRegistry,
  targets: readonly UpdateTarget[],
  answers: AnswersAsked | undefined,
  version: string,
): UpdateTarget | null {
  if (answers === undefined) return null;
  const asked = [...targets.map(({ name }) => name), ...(Array.isArray(answers) ? [] : [answers.agreeWith])];
  const silent = asked.find((name) => instances.options(name).engine === 'lmdeploy');
  if (silent !== undefined)
    throw new UsageError(
      `verify.answers: instance ${silent} is an LMDeploy, which gives no log-probabilities of prompts`,
    );
  const callers = targets.find(({ pause }) => pause === 'caller');
  if (callers !== undefined) {
    throw new UsageError(
      `verify.answers: instance ${callers.name} has pause "caller", and answers nothing before its caller resumes it`,
    );
  }
  if (Array.isArray(answers)) return null;
  const { agreeWith } = answers;
  if (targets.some(({ name }) => name === agreeWith)) {
    throw new UsageError(
      `verify.answers.agreeWith: instance ${agreeWith} is itself to be updated; update it before the others`,
    );
  }
  const [other] = instances.targets([agreeWith]);
  if (other!.isPaused)
    throw new UsageError(`verify.answers.agreeWith: instance ${agreeWith} is paused, and answers nothing`);
  if (other!.version === version) return other!;
  throw new UsageError(
    `verify.answers.agreeWith: instance ${agreeWith} serves ${other!.version ?? 'no known version'}, not ${version}`,
  );
}
