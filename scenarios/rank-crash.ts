import { incidentCommand } from './incident.ts';
import { signalAll } from './signal-all.ts';

await incidentCommand({
  name: 'rank-crash',
  description: 'The ranks of one of two instances are killed in the middle of an update.',
  strike: ({ pidsOf }) => signalAll(pidsOf('a'), 'SIGKILL'),
});
