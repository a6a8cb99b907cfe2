import { hostBehindNetwork } from './host-network.ts';
import { incidentCommand } from './incident.ts';
import { signalAll } from './signal-all.ts';

const timeoutMilliseconds = 15_000;

const { network, cluster } = hostBehindNetwork('b');
process.once('exit', () => network.close());
await incidentCommand({
  name: 'host-loss',
  description: 'One of two hosts is cut off and loses its ranks in the middle of an update; then it is back.',
  cluster,
  update: { timeoutMilliseconds },
  // Clients cannot reach the engine there.
  failsRequests: true,
  strike: ({ pidsOf }) => {
    network.silence(0);
    signalAll(pidsOf('b'), 'SIGKILL');
  },
  heal: () => network.mend(0),
});
