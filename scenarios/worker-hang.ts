import { incidentCommand } from './incident.ts';
import { signalAll } from './signal-all.ts';

/** How long one answer of an engine worker may take here. */
const stepTimeoutMilliseconds = 3_000;

await incidentCommand({
  name: 'worker-hang',
  description: 'A worker of one of two engines hangs in the middle of an update, and goes on after it.',
  update: { stepTimeoutMilliseconds },
  strike: ({ fleet }) => signalAll(fleet.engines.get('a')!.workerPids, 'SIGSTOP'),
  heal: ({ fleet }) => signalAll(fleet.engines.get('a')!.workerPids, 'SIGCONT'),
});
