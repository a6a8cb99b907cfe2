import { interruptible } from '../src/cli/interrupt.ts';
import { VerificationError } from '../src/errors.ts';
import { formatBytes } from '../src/units.ts';
import { type Fleet, withFleet } from './fleet.ts';
import { type FleetScene, fleetScenario } from './fleet-scenario.ts';
import { type LoadReport, requestsText } from './load-generator.ts';
import {
  announce,
  joinInstance,
  joinRows,
  ranksOfEach,
  requestsAt,
  seconds,
  stopRequests,
  verifyInstances,
} from './scenario.ts';

const serving = ['first', 'second'];
const joiner = 'third';

/** How long the joiner gets completion requests at the end. */
const trialMilliseconds = 500;

/** Sends completion requests to the joiner. Rejects with `VerificationError` unless that version answers all of them. */
async function requestVersion(fleet: Fleet, version: string): Promise<LoadReport> {
  const trial = requestsAt(fleet, [joiner]);
  await new Promise((resolve) => setTimeout(resolve, trialMilliseconds));
  const report = await stopRequests(trial);
  if (report.served > 0 && report.versions.every((one) => one === version)) return report;
  throw new VerificationError(`instance ${joiner} does not serve ${version}: ${requestsText(report)}`);
}

async function lateJoin({ bytes, ranks, reporter, signal }: FleetScene): Promise<object> {
  const [first, second, third] = ranksOfEach(3, ranks);
  const fleetOptions = {
    name: 'late-join',
    bytes,
    signal,
    instances: { first: first!, second: second! },
    hosts: { first: { launcher: [] }, second: { launcher: [] }, third: { launcher: [] } },
    onProgress: reporter.progress.bind(reporter),
  };
  return withFleet(fleetOptions, async (fleet) => {
    const { cluster } = fleet;
    const model = await fleet.makeModel(2);
    const instance = await interruptible(fleet.startEngine(joiner, third!), signal);
    reporter.end();
    announce('updating both while they answer requests');
    const whileUpdating = requestsAt(fleet, serving);
    const { tensors, digest } = await interruptible(cluster.register('weights', model), signal);
    await interruptible(cluster.update('weights', { instances: serving }), signal);
    const updating = await stopRequests(whileUpdating);

    reporter.end();
    announce('a third engine joins');
    const whileJoining = requestsAt(fleet, serving);
    const { figures, report } = await interruptible(joinInstance(fleet, instance, 'weights'), signal);
    const joining = await stopRequests(whileJoining);
    reporter.end();
    await verifyInstances(fleet, [...serving, joiner], model, signal);

    const joined = await requestVersion(fleet, `weights@${digest}`);
    reporter.rows([
      ['version', `weights@${digest}`],
      ['size', `${formatBytes(figures.bytes)}, ${tensors} tensors`],
      ...joinRows(figures, joining),
      ['verified', 'every worker of all three instances holds the checkpoint, bit by bit'],
    ]);
    return {
      version: `weights@${digest}`,
      ranks,
      tensors,
      ...figures,
      updateSeconds: seconds(report.seconds * 1000),
      requestsServed: updating.served + joining.served,
      requestsFailed: updating.failed + joining.failed + joined.failed,
      slowestRequestSeconds: seconds(joining.slowestMilliseconds),
      verified: true,
    };
  });
}

await fleetScenario(
  'late-join',
  'Two instances serve and are updated; a third joins while they answer requests, and reads its weights from their memory.',
  { size: '256MiB', ranks: '2' },
  lateJoin,
);
