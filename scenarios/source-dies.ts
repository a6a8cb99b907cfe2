import { interruptible } from '../src/cli/interrupt.ts';
import type { Progress } from '../src/index.ts';
import { formatBytes } from '../src/units.ts';
import { type Fleet, withFleet } from './fleet.ts';
import { type FleetScene, fleetScenario } from './fleet-scenario.ts';
import { Killer } from './killer.ts';
import {
  announce,
  joinInstance,
  joinRows,
  rankPids,
  ranksOfEach,
  requestsAt,
  seconds,
  stopRequests,
  verifyInstances,
} from './scenario.ts';

const survivor = 'survivor';
const victim = 'victim';
const joiner = 'joiner';

/** Arms the killer: the victim's ranks and engine die while the joiner's ranks receive from them. */
async function arm(killer: Killer, { cluster, engines }: Fleet): Promise<void> {
  const status = await cluster.status();
  const victims = [...rankPids(status, victim), ...engines.get(victim)!.pids];
  killer.arm({ victims, receivers: rankPids(status, joiner) });
}

async function sourceDies({ bytes, ranks, reporter, signal }: FleetScene): Promise<object> {
  const [first, second, third] = ranksOfEach(3, ranks);
  const killer = new Killer(third!);
  const fleetOptions = {
    name: 'source-dies',
    bytes,
    signal,
    instances: { [survivor]: first!, [victim]: second! },
    hosts: { [survivor]: { launcher: [] }, [victim]: { launcher: [] }, [joiner]: { launcher: [] } },
    onProgress: (progress: Progress) => {
      killer.progress(progress);
      reporter.progress(progress);
    },
  };
  return withFleet(fleetOptions, async (fleet) => {
    const { cluster } = fleet;
    const model = await fleet.makeModel(2);
    const instance = await interruptible(fleet.startEngine(joiner, third!), signal);
    const { tensors, digest } = await interruptible(cluster.register('weights', model), signal);
    await interruptible(cluster.update('weights'), signal);

    reporter.end();
    announce(
      'a third engine joins; one of the first two is killed, with its ranks, while the third reads from it',
    );
    const load = requestsAt(fleet, [survivor]);
    const join = joinInstance(fleet, instance, 'weights', () => arm(killer, fleet));
    const { figures, report } = await interruptible(join, signal);
    const killedAtBytes = await killer.check(report);
    const requests = await stopRequests(load);
    reporter.end();
    await verifyInstances(fleet, [survivor, joiner], model, signal);
    reporter.rows([
      ['version', `weights@${digest}`],
      ['size', `${formatBytes(figures.bytes)}, ${tensors} tensors`],
      ['killed', `when ${formatBytes(killedAtBytes)} had been received`],
      ...joinRows(figures, requests),
      ['verified', 'every worker of both surviving instances holds the checkpoint, bit by bit'],
    ]);
    return {
      version: `weights@${digest}`,
      ranks,
      tensors,
      killedAtBytes,
      ...figures,
      requestsServed: requests.served,
      requestsFailed: requests.failed,
      slowestRequestSeconds: seconds(requests.slowestMilliseconds),
      verified: true,
    };
  });
}

await fleetScenario(
  'source-dies',
  'An instance joins, and one of the two instances from which it reads its weights is killed meanwhile.',
  { size: '512MiB', ranks: '2' },
  sourceDies,
);
