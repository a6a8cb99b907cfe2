/** `npm run bench:join-storm`: how much longer concurrent joins take than a single one, on hosts with limited links. */

import { whyNoNamespaces } from '../scenarios/host-network.ts';
import { preferNetwork } from '../scenarios/scenario.ts';
import { type StormFigures, storm } from '../scenarios/storm.ts';
import { UsageError } from '../src/errors.ts';
import { median } from './median.ts';
import { type Figure, writeReport } from './report.ts';

const linkRate = '100mbit';
const linkBytesPerSecond = 100e6 / 8;
const modelBytes = 96 * 2 ** 20;
const joinerCount = 8;
const roundCount = 3;

interface Round {
  readonly one: StormFigures;
  readonly many: StormFigures;
}

async function measure(signal: AbortSignal): Promise<Round[]> {
  const obstacle = whyNoNamespaces();
  if (obstacle !== undefined)
    throw new UsageError(`this benchmark limits the links of hosts, but ${obstacle}`);
  preferNetwork();
  const rounds: Round[] = [];
  for (let round = 0; round < roundCount; round += 1) {
    const options = { bytes: modelBytes, link: linkRate, signal };
    rounds.push({
      one: await storm({ ...options, joiners: 1 }),
      many: await storm({ ...options, joiners: joinerCount }),
    });
  }
  return rounds;
}

function figuresOf(rounds: readonly Round[]): Figure[] {
  const of = (value: (round: Round) => number) => median(rounds.map(value));
  return [
    { name: 'one joins', value: of(({ one }) => one.stormSeconds), unit: 's' },
    {
      name: 'of them, what its link takes for the bytes alone',
      value: of(({ one }) => one.receivedBytes / linkBytesPerSecond / one.stormSeconds),
      unit: '',
    },
    { name: `${joinerCount} join at once`, value: of(({ many }) => many.stormSeconds), unit: 's' },
    {
      name: `${joinerCount} at once to one`,
      value: of(({ one, many }) => many.stormSeconds / one.stormSeconds),
      unit: '',
      atMost: 1.5,
    },
    {
      name: `copies of the checkpoint that the source gave to ${joinerCount}`,
      value: of(({ many }) => many.receivedFromSource / many.bytes),
      unit: '',
    },
    {
      name: 'requests that failed at the source',
      value: rounds.reduce((sum, { one, many }) => sum + one.requests.failed + many.requests.failed, 0),
      unit: '',
      atMost: 0,
    },
  ];
}

const abort = new AbortController();
process.once('SIGINT', () => abort.abort(new Error('interrupted by SIGINT')));
writeReport({
  name: 'join-storm',
  title: 'Many join at once',
  command: 'npm run bench:join-storm',
  method:
    `Real processes on hosts that are network namespaces of one machine, each with a veth cable that tc (tbf) limits to ` +
    `${linkRate} in each direction, over the tcp fabric. One instance of one rank serves ${modelBytes / 2 ** 20} MiB and answers ` +
    `requests; one instance, or ${joinerCount} at once, receive them by an update each. Measured from the requests until the ` +
    `last instance's workers have acknowledged every bucket; engines and rank processes are started before, because ` +
    `starting them loads this machine's processor and not the links. Afterwards every worker's weights are compared with ` +
    `the files. Medians of ${roundCount} rounds. 64 concurrent joins are too many processes for one machine: ` +
    `\`npm run bench:join-storm:simulated\` measures them in virtual time.`,
  figures: figuresOf(await measure(abort.signal)),
});
