import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { SharedDirectory } from '../native-bridge/memory.ts';

const sharedMemory = '/dev/shm';
/** Directories of clusters, with the name of a host after those of other hosts' ranks, and of host devices. */
const ours = /^weightcast-([0-9a-f]{12}(-.+)?|device-.+)$/;

/**
 * Removes the shared memory of this user's clusters and devices whose processes were all killed. What a running process uses
 * is kept, and so is whatever else others may have put there under such a name.
 */
export function sweepSharedMemory(): void {
  for (const name of readdirSync(sharedMemory)) {
    if (!ours.test(name)) continue;
    try {
      SharedDirectory.removeIfAbandoned(join(sharedMemory, name));
    } catch {
      // It belongs to another user, or was removed meanwhile.
    }
  }
}
