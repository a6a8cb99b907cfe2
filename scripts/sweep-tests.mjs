// Removes what killed tests left: files in /dev/shm, and network namespaces. Their names hold the process that made them, or
// the runner of its tests (test/shared-memory-name.ts, scenarios/host-network.ts); what belongs to a process that runs is kept.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const madeByTests = /^(?:weightcast-)?(?:test|fake-nccl)-(\d+)-/;
const namespaceOfTests = /^wc-(\d+)-/;

export function sweepTests(directory = '/dev/shm', namespaces = '/run/netns') {
  for (const name of leftIn(directory, madeByTests))
    rmSync(join(directory, name), { recursive: true, force: true });
  // Those of another user stay.
  for (const name of leftIn(namespaces, namespaceOfTests)) spawnSync('ip', ['netns', 'delete', name]);
}

function leftIn(directory, form) {
  if (!existsSync(directory)) return [];
  return readdirSync(directory).filter((name) => {
    const [, pid] = form.exec(name) ?? [];
    return pid !== undefined && !existsSync(`/proc/${pid}`);
  });
}
