/**
 * `npm run bench:start-up`: how long a rank's process takes to be ready for work, as the package has it (one bundle),
 * against the same process of single modules, in pairs.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { systemClock } from '../src/native-bridge/clock.ts';
import { createLog } from '../src/observe/log.ts';
import { createClusterKeys, spokeKeys } from '../src/transport/curve.ts';
import { HubTransport } from '../src/transport/hub.ts';
import { nodeName } from '../src/transport/node-name.ts';
import { median } from './median.ts';
import { writeReport } from './report.ts';

const ROUNDS = 11;
const root = new URL('..', import.meta.url);
const [bundled, modules] = ['dist', 'build/start-up'].map((tree) =>
  fileURLToPath(new URL(`${tree}/src/processes/rank-process.js`, root)),
);

const keys = createClusterKeys();
const name = `weightcast-bench-${process.pid}`;
const hub = await HubTransport.bind({
  node: nodeName('supervisor'),
  endpoint: `ipc://@${name}`,
  keys,
  clock: systemClock,
  log: createLog('bench'),
});
/** What the rank that was started last says first: that it is ready, or that it cannot be. */
let said: (type: string) => void = () => {};
hub.listen(
  (_, envelope) => {
    if ('body' in envelope) said((envelope.body as { type: string }).type);
  },
  () => {},
);

/** Milliseconds from the start of the process to its message that it is ready. */
async function startUp(program: string): Promise<number> {
  const node = nodeName('rank-0');
  const configuration = {
    rank: 0,
    node,
    endpoint: hub.endpoint,
    hubNode: hub.node,
    keys: spokeKeys(keys),
    host: {
      name: 'here',
      directory: `/dev/shm/${name}`,
      fabricAddresses: ['127.0.0.1'],
      devices: { kind: 'host', namespace: name, capacity: 2 ** 20 },
      threads: 1,
    },
    gpu: 0,
    localRank: 0,
    localRanks: 1,
    startTimeoutMilliseconds: 60_000,
    stopTimeoutMilliseconds: 60_000,
    fabricSecret: '00'.repeat(32),
    link: 'weightcast',
  };
  const begun = performance.now();
  const child = spawn(process.execPath, [program], { stdio: ['pipe', 'inherit', 'inherit'] });
  const exited = once(child, 'exit');
  const first = new Promise<string>((resolve) => {
    said = resolve;
    exited.then(([code]) => resolve(`exit code ${code}`));
  });
  child.stdin.write(`${JSON.stringify(configuration)}\n`);
  assert.equal(await first, 'rank-ready');
  const milliseconds = performance.now() - begun;
  child.stdin.end();
  await exited;
  return milliseconds;
}

const run = (command: string, ...words: string[]) =>
  execFileSync(fileURLToPath(new URL(command, root)), words, { cwd: root, stdio: 'inherit' });
execFileSync(process.execPath, ['scripts/build.mjs'], { cwd: root, stdio: 'inherit' });
run('node_modules/.bin/tsc', '-p', 'tsconfig.build.json', '--outDir', 'build/start-up');
const pairs: { bundle: number; modules: number }[] = [];
// The first pair reads the files into memory.
for (let round = 0; round <= ROUNDS; round += 1) {
  const pair = { bundle: await startUp(bundled!), modules: await startUp(modules!) };
  if (round > 0) pairs.push(pair);
}
await hub.close(1_000);

writeReport({
  name: 'start-up',
  title: 'Start of a rank process',
  command: 'npm run bench:start-up',
  method:
    `From the start of the process to its message that it is ready, on a host device: ${ROUNDS} pairs, one of each in ` +
    'turn, after a pair that does not count; medians, and the median of the ratios of the pairs.',
  figures: [
    { name: 'one bundle', value: median(pairs.map(({ bundle }) => bundle)), unit: 'ms' },
    { name: 'single modules', value: median(pairs.map((pair) => pair.modules)), unit: 'ms' },
    {
      name: 'bundle / modules',
      value: median(pairs.map((pair) => pair.bundle / pair.modules)),
      unit: '',
      atMost: 0.7,
    },
  ],
});
