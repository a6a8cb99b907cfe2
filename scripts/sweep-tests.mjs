// Removes what killed tests left in /dev/shm. Names there hold the process that made them, or the runner of its tests
// (test/shared-memory-name.ts); what belongs to a process that runs is kept.
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const madeByTests = /^(?:weightcast-)?(?:test|fake-nccl)-(\d+)-/;

export function sweepTests(directory = '/dev/shm') {
  for (const name of readdirSync(directory)) {
    const [, pid] = madeByTests.exec(name) ?? [];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    rmSync(join(directory, name), { recursive: true, force: true });
  }
}
