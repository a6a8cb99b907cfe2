import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { SharedDirectory } from '../native-bridge/memory.ts';

const sharedMemory = '/dev/shm';
/** Directories of clusters, with the name of a host after those of other hosts' ranks, and of host devices. */
const ours = /^weightcast-([0-9a-f]{12}(-.+)?|device-.+)$/;

/** Of a daemon's directory: the file whose time of modification says until when it is kept, for the next daemon. */
export const leftRecord = 'versions.json';

/** Those of clusters, daemons and devices. */
export function sharedDirectories(): string[] {
  return readdirSync(sharedMemory).flatMap((name) => (ours.test(name) ? [join(sharedMemory, name)] : []));
}

/**
 * Removes the shared memory of this user's clusters and devices whose processes were all killed. What a running process uses
 * is kept, and so is whatever else others may have put there under such a name.
 */
export function sweepSharedMemory(): void {
  for (const directory of sharedDirectories()) {
    try {
      const left = statSync(join(directory, leftRecord), { throwIfNoEntry: false });
      if (left !== undefined && left.mtimeMs > Date.now()) continue;
      SharedDirectory.removeIfAbandoned(directory);
    } catch {
      // It belongs to another user, or was removed meanwhile.
    }
  }
}
