import type { KeeperState } from './cluster-keeper.ts';
import type { InstanceView } from './kept-instances.ts';

/** Why traffic should not come yet: an instance that serves no known version, or not the one of the others. Empty if it may. */
export function reasonsNotReady(state: KeeperState, instances: readonly InstanceView[]): string[] {
  if (state !== 'ready') return [`the daemon is ${state}`];
  if (instances.length === 0) return ['the daemon has no instance'];
  const reasons = instances.flatMap(({ name, state, isPaused, problem }) => [
    ...(state === 'serving' ? [] : [`instance ${name} is ${state}${whyOf(state, problem)}`]),
    ...(isPaused ? [`instance ${name} is paused`] : []),
  ]);
  const versions = new Set(
    instances.flatMap(({ version }) => (version === null ? [] : [`${version.checkpoint}@${version.digest}`])),
  );
  return versions.size > 1 ? [...reasons, `instances serve ${[...versions].join(', ')}`] : reasons;
}

function whyOf(state: InstanceView['state'], problem: string | null): string {
  if (problem !== null) return ` (${problem})`;
  return state === 'unknown' ? ' (this daemon has not updated it yet)' : '';
}
