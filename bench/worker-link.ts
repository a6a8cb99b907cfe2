/**
 * `npm run bench:worker-link [-- cuda]`: what a bucket costs on weightcast's own worker link, asked one by one and announced
 * ahead, with the worker of python/ as a process of its own; on a host device, or on a GPU. Needs WEIGHTCAST_PYTHON, with torch,
 * pyzmq and msgpack.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { MessagePackWorkerLink } from '../src/engines/worker-link/rank-side.ts';
import type { LinkTensor } from '../src/engines/worker-link/worker-link.ts';
import { systemClock } from '../src/native-bridge/clock.ts';
import { CudaDevice } from '../src/native-bridge/cuda-device.ts';
import { HostDevice } from '../src/native-bridge/host-device.ts';
import { PythonWorker } from '../test/python/engine-worker.ts';
import { gpuEnvironment } from './gpu/environment.ts';
import { median } from './median.ts';
import { needPython } from './needed-python.ts';
import { processorTime } from './processor-time.ts';
import { type Figure, writeReport } from './report.ts';

const isOnGpu = process.argv.includes('cuda');
const buckets = 4_000;
const slots = 3;
const slotBytes = 4_096;
const rounds = 5;

interface Round {
  readonly milliseconds: number;
  /** What processors worked for the rank, and for the worker. */
  readonly rankWork: number;
  readonly workerWork: number;
  /** Of the milliseconds, what the model itself took to copy. */
  readonly loading: number;
}

needPython('bench:worker-link', 'torch', 'zmq', 'msgpack');
const ends: (() => unknown)[] = [];
const namespace = `weightcast-bench-${randomBytes(4).toString('hex')}`;
const device = isOnGpu
  ? CudaDevice.open({ index: 0, pinThreads: 1 })
  : HostDevice.open({ namespace, index: 0, capacity: 2 ** 22, uploadThreads: 1 });
const buffer = device.allocate(slots * slotBytes);
const worker = await PythonWorker.start({ after: (end) => ends.push(end) }, 'weightcast_worker.py', [
  isOnGpu ? 'cuda:0' : 'cpu',
  'vllm',
  '60',
]);

const tensorOf = (bucket: number): LinkTensor => ({
  name: `layers.${bucket % slots}.weight`,
  dtype: 'BF16',
  shape: [32, 64],
  offset: (bucket % slots) * slotBytes,
});

/** Milliseconds that processors have worked for the worker: Linux counts in hundredths of a second. */
function workerTime(): number {
  const fields = readFileSync(`/proc/${worker.process.pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** One exchange; as many buckets in flight as is said. */
async function exchange(inFlight: number, report = false): Promise<Round> {
  const link = await MessagePackWorkerLink.bind({
    deviceUuid: device.uuid,
    epoch: 1,
    version: 'bench@0',
    report,
    timeoutMilliseconds: 60_000,
    clock: systemClock,
  });
  worker.command({ links: { [device.uuid]: link.address }, quiet: true });
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  const before = { time: performance.now(), rank: processorTime(), worker: workerTime() };
  const answers: Promise<void>[] = [];
  for (let bucket = 0; bucket < buckets; bucket += 1) {
    // A slot goes round again when its bucket is answered.
    if (bucket >= inFlight) await answers[bucket - inFlight];
    answers.push(link.load([tensorOf(bucket)]));
  }
  await Promise.all(answers);
  const milliseconds = (performance.now() - before.time) / buckets;
  const rankWork = (processorTime() - before.rank) / buckets;
  const workerWork = (workerTime() - before.worker) / buckets;
  await link.release();
  await link.finish();
  link.close();
  const { loads = [] } = await worker.ended();
  const loading = loads.reduce((sum, [from, to]) => sum + to - from, 0) / buckets;
  return { milliseconds, rankWork, workerWork, loading };
}

const [serial, ahead, digested]: [Round[], Round[], Round[]] = [[], [], []];
try {
  await exchange(1);
  for (let round = 0; round < rounds; round += 1) {
    serial.push(await exchange(1));
    ahead.push(await exchange(slots));
    digested.push(await exchange(slots, true));
  }
} finally {
  for (const end of ends) await end();
  buffer.free();
  device.close();
}
const of = (runs: readonly Round[], what: keyof Round) => median(runs.map((run) => run[what]));
const ratio = median(ahead.map(({ milliseconds }, at) => milliseconds / serial[at]!.milliseconds));
const ms = (name: string, runs: readonly Round[], what: keyof Round): Figure => {
  return { name, value: of(runs, what), unit: 'ms' };
};
writeReport({
  name: isOnGpu ? 'worker-link-gpu' : 'worker-link',
  title: 'A bucket on the worker link',
  command: `npm run bench:worker-link${isOnGpu ? ' -- cuda' : ''}`,
  method:
    `${buckets} buckets of one tensor of ${slotBytes} bytes on a ${isOnGpu ? 'GPU' : 'host device'}, from the rank's end of the ` +
    `link to a worker in Python. One by one, ${slots} in flight, and so with digests, in turns; medians of ${rounds}. No slot is ` +
    'filled: this is the cost of asking.',
  environment: isOnGpu ? gpuEnvironment(true) : [],
  figures: [
    ms('a bucket, asked one by one', serial, 'milliseconds'),
    { ...ms(`a bucket, ${slots} in flight`, ahead, 'milliseconds'), ...(isOnGpu ? { atMost: 0.1 } : {}) },
    ms(`a bucket, ${slots} in flight, with digests`, digested, 'milliseconds'),
    { name: `${slots} in flight / one by one`, value: ratio, unit: '' },
    ms(`processors work for the rank, ${slots} in flight`, ahead, 'rankWork'),
    ms(`processors work for the worker, ${slots} in flight`, ahead, 'workerWork'),
    ms('of it, the model copies', ahead, 'loading'),
  ],
});
process.exit();
