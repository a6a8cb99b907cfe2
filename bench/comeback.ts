/**
 * `npm run bench:comeback`: for how long what has died is missed: the supervisor of many instances, and a rank that holds much.
 * `-- 10` takes ten instances.
 */
import { execFileSync } from 'node:child_process';
import { loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { supervisorPid } from '../scenarios/supervisor-pid.ts';
import type { Cluster, ClusterOptions } from '../src/index.ts';
import { parseCount } from '../src/units.ts';
import { median } from './median.ts';
import { writeReport } from './report.ts';

const repetitions = 5;
const supervisors = 3;
const steadyMilliseconds = 61_000;
const pollMilliseconds = 5;
const unboundedMilliseconds = 120_000;
const supervisorBound = 3_000;
const rankBound = 2_000;
const sizes = { '64 MiB': 2 ** 26, '1 GiB': 2 ** 30 };

const root = new URL('..', import.meta.url);
execFileSync(process.execPath, ['scripts/build.mjs'], { cwd: fileURLToPath(root), stdio: 'inherit' });
// As the package has it: processes of single modules start more slowly.
const built = (await import(new URL('dist/src/index.js', root).href)) as typeof import('../src/index.ts');
// A hundred processes that start at once are silent for long.
process.env.WEIGHTCAST_SILENCE_SECONDS = '120';

/** A cluster of instances of one rank each, whose engines nobody asks. */
function start(instances: number, options: Partial<ClusterOptions> = {}): Promise<Cluster> {
  return built.Cluster.start({
    ranks: instances,
    instances: Array.from({ length: instances }, (_, rank) => ({
      name: `engine-${rank}`,
      endpoint: 'http://127.0.0.1:9',
      ranks: [rank],
    })),
    devices: { kind: 'host', namespace: `weightcast-bench-${process.pid}`, capacity: 2 ** 22 },
    threads: 1,
    startTimeoutMilliseconds: 600_000,
    ...options,
  });
}

/** Polls until something succeeds; returns how long that took, in milliseconds. */
async function until(what: string, succeeds: () => Promise<boolean>): Promise<number> {
  const begun = performance.now();
  while (!(await succeeds().catch(() => false))) {
    if (performance.now() - begun > unboundedMilliseconds) throw new Error(`waited in vain until ${what}`);
    await sleep(pollMilliseconds);
  }
  return performance.now() - begun;
}

/** From the death of the supervisor until another one says that all ranks are ready. */
async function supervisorTimes(instances: number): Promise<number[]> {
  const cluster = await start(instances);
  const times: number[] = [];
  try {
    for (let turn = 0; turn < supervisors; turn += 1) {
      // One that dies again sooner is started again later.
      if (turn > 0) await sleep(steadyMilliseconds);
      const { ranks } = await cluster.status();
      process.kill(supervisorPid(), 'SIGKILL');
      times.push(
        await until('another supervisor has all ranks', async () => {
          const now = await cluster.status();
          return now.ranks.every(({ state, pid }, index) => state === 'ready' && pid === ranks[index]!.pid);
        }),
      );
    }
  } finally {
    await cluster.stop();
  }
  return times;
}

/** From the death of a rank until its next process lends what it holds to other clusters. */
async function rankTimes(bytes: number): Promise<number[]> {
  const times: number[] = [];
  for (let turn = 0; turn < repetitions; turn += 1) {
    // A rank that has died several times waits before its next start.
    const cluster = await start(1);
    try {
      const data = new Uint8Array(bytes);
      await cluster.register('w', { tensors: { w: { dtype: 'U8', shape: [bytes], data } } });
      const [before] = (await cluster.status()).ranks;
      process.kill(before!.pid!, 'SIGKILL');
      times.push(
        await until('the rank lends', async () => {
          const [now] = (await cluster.status()).ranks;
          if (now!.pid === before!.pid || now!.state !== 'ready') return false;
          await cluster.metas('w');
          return true;
        }),
      );
    } finally {
      await cluster.stop();
    }
  }
  return times;
}

const instances = parseCount(process.argv[2] ?? '100', 'the number of instances');
const load = loadavg()[0]!.toFixed(1);
const most = (times: readonly number[]) => Math.max(...times);
const supervisor = await supervisorTimes(instances);
const figures = [
  {
    name: `supervisor of ${instances} instances: another one is ready`,
    value: median(supervisor),
    unit: 'ms',
    atMost: supervisorBound,
  },
  { name: `supervisor of ${instances} instances: the longest`, value: most(supervisor), unit: 'ms' },
];
for (const [size, bytes] of Object.entries(sizes)) {
  const times = await rankTimes(bytes);
  const name = `rank that holds ${size}: its segments are lent again`;
  figures.push({ name, value: median(times), unit: 'ms', atMost: rankBound });
  figures.push({ name: `rank that holds ${size}: the longest`, value: most(times), unit: 'ms' });
}
writeReport({
  name: 'comeback',
  title: 'For how long what has died is missed',
  command: 'npm run bench:comeback',
  method:
    `From SIGKILL on: of the supervisor until another one says that all ranks are ready, of a rank until its next process ` +
    `lends its segments to another cluster. Medians of ${supervisors} and of ${repetitions}. Instances of one rank each on host devices, whose memory need not ` +
    `be pinned. Load average when it began: ${load}.`,
  figures,
});
