import { interruptible } from '../src/cli/interrupt.ts';
import { mayPass, PeerLostError, VerificationError } from '../src/errors.ts';
import type { Cluster, Progress, UpdateReport } from '../src/index.ts';
import { formatBytes } from '../src/units.ts';
import { withFleet } from './fleet.ts';
import { type FleetScene, fleetScenario } from './fleet-scenario.ts';
import { MidUpdate } from './mid-update.ts';
import { announce, ranksOfEach, requestsAt, seconds, stopRequests, verifyInstances } from './scenario.ts';
import { supervisorPid } from './supervisor-pid.ts';

const names = ['a', 'b'] as const;

/** Asks again while the error says to. */
async function again<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!mayPass(error)) throw error;
      await new Promise((wake) => setTimeout(wake, 50));
    }
  }
}

/** From the kill on: until the update was rejected, the cluster answered, and all instances were updated. */
async function crash(cluster: Cluster, assassin: MidUpdate) {
  assassin.arm();
  const failure = await cluster.update('next').then(
    () => null,
    (error) => error,
  );
  const { struckAt: killedAt } = assassin;
  if (killedAt === null || !(failure instanceof PeerLostError))
    throw new VerificationError('the supervisor was killed too late; make --size larger', { cause: failure });
  const since = () => seconds(performance.now() - killedAt);
  const rejectedSeconds = since();
  const { ranks, checkpoints } = await again(() => cluster.status());
  const answeredSeconds = since();
  const report: UpdateReport = await again(() => cluster.update('next', { atomic: true }));
  return { rejectedSeconds, answeredSeconds, updatedSeconds: since(), ranks, checkpoints, report };
}

async function supervisorCrash({ bytes, ranks, reporter, signal }: FleetScene): Promise<object> {
  const [first, second] = ranksOfEach(2, ranks);
  const assassin = new MidUpdate(() => void process.kill(supervisorPid(), 'SIGKILL'));
  const onProgress = (progress: Progress) => {
    assassin.progress(progress);
    reporter.progress(progress);
  };
  const instances = { a: first!, b: second! };
  return withFleet({ name: 'supervisor-crash', bytes, signal, instances, onProgress }, async (fleet) => {
    const { cluster } = fleet;
    const [one, two] = [await fleet.makeModel(2), await fleet.makeModel(3)];
    await interruptible(cluster.register('weights', one), signal);
    await interruptible(cluster.update('weights'), signal);
    await interruptible(cluster.register('next', two), signal);
    const before = await cluster.status();
    const load = requestsAt(fleet, names);

    reporter.end();
    announce('the supervisor is killed in the middle of an update, which is asked for again');
    const outcome = await interruptible(crash(cluster, assassin), signal);
    const requests = await stopRequests(load);
    reporter.end();
    const survivors = outcome.ranks.filter(({ pid }) => before.ranks.some((rank) => rank.pid === pid)).length;
    const lost = before.checkpoints.length - outcome.checkpoints.length;
    if (lost > 0) throw new VerificationError(`${lost} registered checkpoints are gone`);
    await verifyInstances(fleet, names, two, signal);
    const { rejectedSeconds, answeredSeconds, updatedSeconds, report } = outcome;
    reporter.rows([
      ['size', formatBytes(report.bytes)],
      ['rejected', `the update that was under way, ${rejectedSeconds} s after the kill`],
      ['answered', `a status by another supervisor, ${answeredSeconds} s after the kill`],
      ['updated', `both instances, ${updatedSeconds} s after the kill`],
      ['survived', `${survivors} of ${before.ranks.length} ranks, and all registered checkpoints`],
      ['verified', 'every worker of both instances holds the checkpoint, bit by bit'],
      ['requests', `${requests.served} served; ${requests.failed} failed`],
    ]);
    return {
      ranks,
      bytes: report.bytes,
      rejectedSeconds,
      answeredSeconds,
      updatedSeconds,
      ranksSurvived: survivors,
      requestsServed: requests.served,
      requestsFailed: requests.failed,
      slowestRequestSeconds: seconds(requests.slowestMilliseconds),
      verified: true,
    };
  });
}

await fleetScenario(
  'supervisor-crash',
  'The supervisor is killed in the middle of an update, and another one takes its place.',
  { size: '512MiB', ranks: '2' },
  supervisorCrash,
);
