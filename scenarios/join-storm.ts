import { Reporter } from '../src/cli/reporter.ts';
import { UsageError } from '../src/errors.ts';
import { formatBytes, parseBytes, parseCount } from '../src/units.ts';
import { whyNoNamespaces } from './host-network.ts';
import { announce, requestsRow, scenario, seconds } from './scenario.ts';
import { storm } from './storm.ts';

interface Options {
  readonly joiners: string;
  readonly size: string;
  readonly link: string;
  readonly json?: string;
}

/** Each is an engine with a worker, and a rank process; the bridge has ports for more. */
const mostJoiners = 128;

async function joinStorm(options: Options, signal: AbortSignal): Promise<object> {
  const joiners = parseCount(options.joiners, '--joiners');
  if (joiners > mostJoiners) throw new UsageError(`--joiners is ${joiners}; the most is ${mostJoiners}`);
  const bytes = parseBytes(options.size, '--size');
  const link = parseLink(options.link);
  const reporter = new Reporter();
  const onProgress = reporter.progress.bind(reporter);
  try {
    const { requests, ...figures } = await storm({ joiners, bytes, link, signal, onProgress });
    reporter.end();
    const fromJoiners = figures.receivedBytes - figures.receivedFromSource;
    const all = joiners === 1 ? 'it' : `all ${joiners}`;
    reporter.rows([
      ['version', figures.version],
      ['size', `${formatBytes(figures.bytes)}, ${figures.tensors} tensors`],
      ['links', link ?? 'not limited: hosts in name only'],
      ['joined in', `${figures.stormSeconds} s, the first after ${Math.min(...figures.joinSeconds)} s`],
      ['from the source', formatBytes(figures.receivedFromSource)],
      ['from joiners', formatBytes(fromJoiners)],
      requestsRow(requests),
      ['verified', `${all} and the source hold the checkpoint, bit for bit`],
    ]);
    return {
      joiners,
      link,
      ...figures,
      requestsServed: requests.served,
      requestsFailed: requests.failed,
      slowestRequestSeconds: seconds(requests.slowestMilliseconds),
      verified: true,
    };
  } finally {
    reporter.end();
  }
}

/** `none` for hosts in name only, which there are too where there can be no others. */
function parseLink(text: string): string | null {
  if (text === 'none') return null;
  if (!/^[1-9]\d*(k|m|g)bit$/.test(text)) {
    throw new UsageError(`--link is "${text}"; give a rate such as 200mbit, or none`);
  }
  const obstacle = whyNoNamespaces();
  if (obstacle === undefined) return text;
  announce(`hosts are in name only, and links not limited: ${obstacle}`);
  return null;
}

await scenario<Options>(
  'join-storm',
  'One instance serves; many join at once, each on a host of its own with a slow link, and pass on what they get.',
  joinStorm,
)
  .option('--joiners <n>', 'how many', '4')
  .option('--size <bytes>', 'size of the model to make', '64MiB')
  .option(
    '--link <rate>',
    "of each host, in each direction: 200mbit, 10gbit, none (as tc's tbf has it)",
    '200mbit',
  )
  .parseAsync();
