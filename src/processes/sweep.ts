import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { SharedDirectory } from '../native-bridge/memory.ts';

const sharedMemory = '/dev/shm';

/**
 * Removes the shared memory of clusters and devices whose processes were all killed. What a running process uses is kept,
 * whichever user started it.
 */
export function sweepSharedMemory(): void {
  for (const name of readdirSync(sharedMemory)) {
    if (!name.startsWith('weightcast-')) continue;
    try {
      SharedDirectory.removeIfAbandoned(join(sharedMemory, name));
    } catch {
      // It belongs to another user, or was removed meanwhile.
    }
  }
}
