import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { SharedDirectory } from '../native-bridge/memory.ts';

const sharedMemory = '/dev/shm';

/**
 * Removes what clusters and devices left in shared memory whose processes were all killed at once. What a live process
 * holds stays, whoever started it.
 */
export function sweepSharedMemory(): void {
  for (const name of readdirSync(sharedMemory)) {
    if (!name.startsWith('weightcast-')) continue;
    try {
      SharedDirectory.removeIfAbandoned(join(sharedMemory, name));
    } catch {
      // Another user's, or gone meanwhile: not ours to remove.
    }
  }
}
