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

/** A limit for the machine: each joiner is an engine process with a worker, and a rank process. */
const mostJoiners = 128;

async function joinStorm(options: Options, signal: AbortSignal): Promise<object> {
  const joiners = parseCount(options.joiners, '--joiners');
  if (joiners > mostJoiners)
    throw new UsageError(`--joiners is ${joiners}; at most ${mostJoiners} are allowed`);
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
      ['links', link ?? 'unlimited, all hosts share one network stack'],
      ['joined in', `${figures.stormSeconds} s, the first after ${Math.min(...figures.joinSeconds)} s`],
      ['from the source', formatBytes(figures.receivedFromSource)],
      ['from joiners', formatBytes(fromJoiners)],
      requestsRow(requests),
      ['verified', `${all} and the source hold the checkpoint, bit by bit`],
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

/** The rate; null for `none`, and where network namespaces cannot be used. */
function parseLink(text: string): string | null {
  if (text === 'none') return null;
  if (!/^[1-9]\d*(k|m|g)bit$/.test(text)) {
    throw new UsageError(`--link is "${text}"; give a rate such as 200mbit, or none`);
  }
  const obstacle = whyNoNamespaces();
  if (obstacle === undefined) return text;
  announce(`links are not limited: ${obstacle}`);
  return null;
}

await scenario<Options>(
  'join-storm',
  'One instance serves; many others join at once, each on its own host with a slow link, and read from each other.',
  joinStorm,
)
  .option('--joiners <n>', 'number of instances that join', '4')
  .option('--size <bytes>', 'size of the generated model', '64MiB')
  .option(
    '--link <rate>',
    "rate of each host's link in each direction, as in tc: 200mbit, 10gbit; or none for no limit",
    '200mbit',
  )
  .parseAsync();
