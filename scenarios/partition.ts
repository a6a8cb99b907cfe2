import { hostBehindNetwork } from './host-network.ts';
import { incidentCommand } from './incident.ts';

/** Within which the update has to be answered, whatever the network does. */
const timeoutMilliseconds = 15_000;

const { network, cluster } = hostBehindNetwork('b');
process.once('exit', () => network.close());
await incidentCommand({
  name: 'partition',
  description:
    'All packets between two hosts are lost in the middle of an update, until it has been answered.',
  cluster,
  update: { timeoutMilliseconds },
  // Clients are on the other side too.
  failsRequests: true,
  strike: () => network.silence(0),
  heal: () => network.mend(0),
});
