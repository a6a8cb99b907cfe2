import { interruptible } from '../src/cli/interrupt.ts';
import { Reporter } from '../src/cli/reporter.ts';
import { VerificationError } from '../src/errors.ts';
import { formatBytes, parseBytes, parseCount } from '../src/units.ts';
import { withFleet } from './fleet.ts';
import { requestsText } from './load-generator.ts';
import {
  announce,
  joinInstance,
  joinRows,
  ranksOfEach,
  requestsAt,
  scenario,
  seconds,
  stopRequests,
  verifyInstances,
} from './scenario.ts';

interface Options {
  readonly size: string;
  readonly ranks: string;
  readonly json?: string;
}

const serving = ['first', 'second'];
const joiner = 'third';

/** How long the joiner is asked for completions in the end. */
const trialMilliseconds = 500;

async function lateJoin(options: Options, signal: AbortSignal): Promise<object> {
  const ranks = parseCount(options.ranks, '--ranks');
  const bytes = parseBytes(options.size, '--size');
  const [first, second, third] = ranksOfEach(3, ranks);
  const reporter = new Reporter();
  const fleetOptions = {
    name: 'late-join',
    bytes,
    signal,
    instances: { first: first!, second: second! },
    hosts: { first: { launcher: [] }, second: { launcher: [] }, third: { launcher: [] } },
    onProgress: reporter.progress.bind(reporter),
  };
  announce(`starting two engines with ${ranks} workers each, and a cluster`);
  return withFleet(fleetOptions, async (fleet) => {
    fleet.atEnd(async () => reporter.end());
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
    announce('a third one joins');
    const whileJoining = requestsAt(fleet, serving);
    const { figures, report } = await interruptible(joinInstance(fleet, instance, 'weights'), signal);
    const joining = await stopRequests(whileJoining);
    reporter.end();
    await verifyInstances(fleet, [...serving, joiner], model, signal);

    const trial = requestsAt(fleet, [joiner]);
    await new Promise((resolve) => setTimeout(resolve, trialMilliseconds));
    const joined = await stopRequests(trial);
    if (joined.served === 0 || !joined.versions.every((version) => version === `weights@${digest}`)) {
      throw new VerificationError(`the instance that joined: ${requestsText(joined)}`);
    }
    reporter.rows([
      ['version', `weights@${digest}`],
      ['size', `${formatBytes(figures.bytes)}, ${tensors} tensors`],
      ...joinRows(figures, joining),
      ['verified', 'every worker of all three holds the checkpoint, bit for bit'],
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

await scenario<Options>(
  'late-join',
  'Two instances serve and are updated; a third joins while they answer requests, and gets its weights from their memory.',
  lateJoin,
)
  .option('--size <bytes>', 'size of the model to make', '256MiB')
  .option('--ranks <n>', 'ranks of each instance', '2')
  .parseAsync();
