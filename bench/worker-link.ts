/**
 * `npm run bench:worker-link`: what a bucket costs on weightcast's own worker link, asked one by one and announced ahead, with
 * the worker of python/ as a process of its own. Needs WEIGHTCAST_PYTHON, with torch, pyzmq and msgpack.
 */
import { randomBytes } from 'node:crypto';
import { MessagePackWorkerLink } from '../src/engines/worker-link/rank-side.ts';
import type { LinkTensor } from '../src/engines/worker-link/worker-link.ts';
import { systemClock } from '../src/native-bridge/clock.ts';
import { HostDevice } from '../src/native-bridge/host-device.ts';
import { PythonWorker } from '../test/python/engine-worker.ts';
import { median } from './median.ts';
import { writeReport } from './report.ts';

const buckets = 4_000;
const slots = 3;
const slotBytes = 4_096;
const rounds = 5;

interface Round {
  readonly milliseconds: number;
  /** Of it, what the model itself took to copy. */
  readonly loading: number;
}

const ends: (() => unknown)[] = [];
const namespace = `weightcast-bench-${randomBytes(4).toString('hex')}`;
const device = HostDevice.open({ namespace, index: 0, capacity: 2 ** 22, uploadThreads: 1 });
const buffer = device.allocate(slots * slotBytes);
const worker = await PythonWorker.start({ after: (end) => ends.push(end) }, 'weightcast_worker.py', [
  'cpu',
  'vllm',
  '60',
]);

const tensorOf = (bucket: number): LinkTensor => ({
  name: `layers.${bucket % slots}.weight`,
  dtype: 'BF16',
  shape: [32, 64],
  offset: (bucket % slots) * slotBytes,
});

/** One exchange; as many buckets in flight as is said. */
async function exchange(inFlight: number): Promise<Round> {
  const link = await MessagePackWorkerLink.bind({
    deviceUuid: device.uuid,
    epoch: 1,
    version: 'bench@0',
    report: false,
    timeoutMilliseconds: 60_000,
    clock: systemClock,
  });
  worker.command({ links: { [device.uuid]: link.address }, quiet: true });
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  const started = performance.now();
  const answers: Promise<void>[] = [];
  for (let bucket = 0; bucket < buckets; bucket += 1) {
    // A slot goes round again when its bucket is answered.
    if (bucket >= inFlight) await answers[bucket - inFlight];
    answers.push(link.load([tensorOf(bucket)]));
  }
  await Promise.all(answers);
  const milliseconds = (performance.now() - started) / buckets;
  await link.release();
  await link.finish();
  link.close();
  const { loads = [] } = await worker.ended();
  return { milliseconds, loading: loads.reduce((sum, [from, to]) => sum + to - from, 0) / buckets };
}

const [serial, ahead]: [Round[], Round[]] = [[], []];
try {
  await exchange(1);
  for (let round = 0; round < rounds; round += 1) {
    serial.push(await exchange(1));
    ahead.push(await exchange(slots));
  }
} finally {
  for (const end of ends) await end();
  device.close();
}
const perBucket = (runs: readonly Round[]) => median(runs.map(({ milliseconds }) => milliseconds));
const ratio = median(ahead.map(({ milliseconds }, at) => milliseconds / serial[at]!.milliseconds));
writeReport({
  name: 'worker-link',
  title: 'A bucket on the worker link',
  command: 'npm run bench:worker-link',
  method:
    `${buckets} buckets of one tensor of ${slotBytes} bytes on a host device, without digests, from the rank's end of the ` +
    `link to a worker in Python. One by one and ${slots} in flight in turns; medians of ${rounds}. No slot is filled: this is ` +
    'the cost of asking.',
  figures: [
    { name: 'a bucket, asked one by one', value: perBucket(serial), unit: 'ms' },
    { name: `a bucket, ${slots} in flight`, value: perBucket(ahead), unit: 'ms' },
    { name: `${slots} in flight / one by one`, value: ratio, unit: '', atMost: 0.8 },
    { name: 'of it, the model copies', value: median(ahead.map(({ loading }) => loading)), unit: 'ms' },
  ],
});
process.exit();
