import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { quoted } from '../checkpoint/printable.ts';
import { UsageError } from '../errors.ts';

/**
 * The join file of this host in a directory with those of all, by what the host is called: WEIGHTCAST_HOST, the name that
 * Slurm's daemon has told its job (SLURMD_NODENAME), or the machine's, which is a pod's in Kubernetes, in full or without its
 * domain. Throws `UsageError` if there is none.
 */
export function joinFileIn(directory: string, variables: NodeJS.ProcessEnv, hostname: string): string {
  const given = variables.WEIGHTCAST_HOST || variables.SLURMD_NODENAME;
  const names = given ? [given] : [...new Set([hostname, hostname.split('.')[0]!])];
  for (const name of names) {
    // It is a name, and no path.
    if (name.includes('/') || name.startsWith('.'))
      throw new UsageError(`${quoted(name)} cannot be the name of a host's join file`);
    const path = join(directory, name);
    if (existsSync(path)) return path;
  }
  throw new UsageError(
    `${quoted(directory)} has no join file of this host, ${names.map(quoted).join(' or ')}`,
  );
}
