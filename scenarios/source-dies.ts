import { interruptible } from '../src/cli/interrupt.ts';
import { Narrator } from '../src/cli/narrator.ts';
import { VerificationError } from '../src/errors.ts';
import type { Progress } from '../src/index.ts';
import { ProgressSum } from '../src/observe/progress-bar.ts';
import { formatBytes, parseBytes, parseCount } from '../src/observe/units.ts';
import { type Fleet, withFleet } from './fleet.ts';
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

const survivor = 'survivor';
const victim = 'victim';
const joiner = 'joiner';

/** Kills an instance with its ranks in the moment in which a rank of the joiner has received something. */
class Killer {
  readonly #received = new ProgressSum();
  readonly #joinerRanks: readonly number[];
  #doneBytes = 0;
  #kill: (() => void) | null = null;

  constructor(joinerRanks: readonly number[]) {
    this.#joinerRanks = joinerRanks;
  }

  /** What had been received when it struck. */
  get receivedBytes(): number {
    return this.#doneBytes;
  }

  /** Learns whom to kill. */
  async aim({ cluster, engines }: Fleet): Promise<void> {
    const { instances, ranks } = await cluster.status();
    const members = instances.find(({ name }) => name === victim)!.ranks;
    const pids = ranks.flatMap(({ rank, pid }) => (members.includes(rank) && pid !== null ? [pid] : []));
    const all = [...pids, ...engines.get(victim)!.pids];
    this.#kill = () => {
      for (const pid of all) process.kill(pid, 'SIGKILL');
    };
  }

  progress(progress: Progress): void {
    if (this.#kill === null || progress.activity !== 'receive') return;
    if (!this.#joinerRanks.includes(progress.rank) || progress.doneBytes === 0) return;
    this.#kill();
    this.#kill = null;
    this.#doneBytes = this.#received.add(progress).doneBytes;
  }

  /** Throws if there was nothing to read any more from those that it killed. */
  check(report: { readonly receivedBytes: number }): void {
    if (this.#kill === null && this.#doneBytes < report.receivedBytes * 0.9) return;
    throw new VerificationError(
      `the source was still there when ${formatBytes(report.receivedBytes)} had been received, so this run shows ` +
        'nothing; make --size larger',
    );
  }
}

async function sourceDies(options: Options, signal: AbortSignal): Promise<object> {
  const ranks = parseCount(options.ranks, '--ranks');
  const bytes = parseBytes(options.size, '--size');
  const [first, second, third] = ranksOfEach(3, ranks);
  const narrator = new Narrator();
  const killer = new Killer(third!);
  const fleetOptions = {
    name: 'source-dies',
    bytes,
    signal,
    instances: { [survivor]: first!, [victim]: second! },
    hosts: { [survivor]: { launcher: [] }, [victim]: { launcher: [] }, [joiner]: { launcher: [] } },
    onProgress: (progress: Progress) => {
      killer.progress(progress);
      narrator.progress(progress);
    },
  };
  announce(`starting two engines with ${ranks} workers each, and a cluster`);
  return withFleet(fleetOptions, async (fleet) => {
    fleet.atEnd(async () => narrator.end());
    const { cluster } = fleet;
    const model = await fleet.makeModel(2);
    const instance = await interruptible(fleet.startEngine(joiner, third!), signal);
    const { tensors, digest } = await interruptible(cluster.register('weights', model), signal);
    await interruptible(cluster.update('weights'), signal);

    narrator.end();
    announce('a third one joins; one of the two is killed, its engine and its ranks, while it is read');
    const load = requestsAt(fleet, [survivor]);
    await killer.aim(fleet);
    const { figures, report } = await interruptible(joinInstance(fleet, instance, 'weights'), signal);
    killer.check(report);
    const requests = await stopRequests(load);
    narrator.end();
    await verifyInstances(fleet, [survivor, joiner], model, signal);
    narrator.rows([
      ['version', `weights@${digest}`],
      ['size', `${formatBytes(figures.bytes)}, ${tensors} tensors`],
      ['killed', `when a rank had received ${formatBytes(killer.receivedBytes)}`],
      ...joinRows(figures, requests),
      ['verified', 'every worker of the two that live holds the checkpoint, bit for bit'],
    ]);
    return {
      version: `weights@${digest}`,
      ranks,
      tensors,
      killedAtBytes: killer.receivedBytes,
      ...figures,
      requestsServed: requests.served,
      requestsFailed: requests.failed,
      slowestRequestSeconds: seconds(requests.slowestMilliseconds),
      verified: true,
    };
  });
}

await scenario<Options>(
  'source-dies',
  'An instance joins, and one of the two that it gets its weights from is killed meanwhile.',
  sourceDies,
)
  .option('--size <bytes>', 'size of the model to make', '512MiB')
  .option('--ranks <n>', 'ranks of each instance', '2')
  .parseAsync();
