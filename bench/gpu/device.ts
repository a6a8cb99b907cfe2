/**
 * `npx tsx bench/gpu/device.ts [GiB]`: the CUDA device alone, compared with the limit of the link measured in the same run.
 * Prints one line per number.
 */
import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Interval } from '../../src/native-bridge/addon.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { CudaDevice, type CudaDeviceBuffer } from '../../src/native-bridge/cuda-device.ts';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';

const mebibyte = 1 << 20;
const bytes = Number(process.argv[2] ?? 4) * 1024 * mebibyte;

function print(name: string, value: number, unit: string): void {
  console.log(`${name.padEnd(58)} ${value.toFixed(3).padStart(10)} ${unit}`);
}

async function timed<T>(work: () => T | Promise<T>): Promise<[milliseconds: number, result: T]> {
  const start = systemClock.now();
  const result = await work();
  return [systemClock.now() - start, result];
}

const gigabytes = (amount: number, milliseconds: number) => amount / milliseconds / 1e6;
const run = (from: number, to: number, size: number) => [from, to, size, 1, size, size];

const [opening, device] = await timed(() => CudaDevice.open({ index: 0, pinThreads: 8 }));
print('open the device', opening, 'ms');
const pool = new ThreadPool(Math.max(1, Math.floor(availableParallelism() / 2)));
const path = `/dev/shm/weightcast-bench-${process.pid}`;
process.on('exit', () => rmSync(path, { force: true }));
const [making, segment] = await timed(() => Mapping.create(path, bytes));
print('make the segment', gigabytes(bytes, making), 'GB/s');
const content = new Uint8Array(8 * mebibyte).map((_, index) => (index * 2_654_435_761) >>> 13);
for (let at = 0; at < bytes; at += content.length) {
  content[0]! += 1;
  await pool.copyIn(content, segment, at);
}
const [pinning] = await timed(() => device.pin(segment));
print('pin the segment, touched', gigabytes(bytes, pinning), 'GB/s');
const [unpinning] = await timed(() => device.unpin(segment));
print('unpin it, on this thread', unpinning, 'ms');
await device.pin(segment);

const buffer = device.allocate(bytes);

/** Starts all uploads at once. */
async function uploads(rectangles: readonly number[][]): Promise<Interval[]> {
  return Promise.all(
    rectangles.map((list) => device.upload([{ segment, rectangles: Float64Array.from(list) }], buffer)),
  );
}

async function measureLimit(): Promise<number> {
  let best = 0;
  for (let round = 0; round < 3; round += 1) {
    const [interval] = await uploads([run(0, 0, bytes)]);
    best = Math.max(best, gigabytes(bytes, interval!.endedAt - interval!.startedAt));
  }
  return best;
}

const limit = await measureLimit();
print('H2D limit: all in one copy', limit, 'GB/s');

/** The median of five rounds, each compared with the limit measured right before it, because other VMs share the host. */
async function measureUploads(name: string, rectangles: readonly number[][], total: number): Promise<void> {
  const rounds: { rate: number; ratio: number; idle: number; cores: number }[] = [];
  for (let round = 0; round < 5; round += 1) {
    const [whole] = await uploads([run(0, 0, bytes)]);
    const bound = gigabytes(bytes, whole!.endedAt - whole!.startedAt);
    const before = process.cpuUsage();
    const [milliseconds, intervals] = await timed(() => uploads(rectangles));
    const { user, system } = process.cpuUsage(before);
    const idle = intervals
      .slice(1)
      .reduce((sum, { startedAt }, index) => sum + startedAt - intervals[index]!.endedAt, 0);
    const rate = gigabytes(total, milliseconds);
    rounds.push({
      rate,
      ratio: rate / bound,
      idle: idle / Math.max(1, intervals.length - 1),
      cores: (user + system) / 1000 / milliseconds,
    });
  }
  const median = (pick: (round: (typeof rounds)[number]) => number) =>
    rounds.map(pick).sort((a, b) => a - b)[2]!;
  print(
    `${name}: rate`,
    median(({ rate }) => rate),
    'GB/s',
  );
  print(
    '  of the limit',
    median(({ ratio }) => ratio),
    '',
  );
  print(
    '  idle between uploads',
    median(({ idle }) => idle),
    'ms',
  );
  print(
    '  processor time',
    median(({ cores }) => cores),
    'cores',
  );
}

for (const mebibytes of [4, 16, 32, 64, 128, 256]) {
  const size = mebibytes * mebibyte;
  const list = Array.from({ length: bytes / size }, (_, index) => run(index * size, index * size, size));
  await measureUploads(`uploads of ${mebibytes} MiB`, list, bytes);
}
{
  // Tensors of 3.2 MiB in a different order than in the segment, so that no two are merged into one copy.
  const tensor = 3_355_648;
  const slots = Math.floor((64 * mebibyte) / tensor);
  const buckets = Math.floor(bytes / (64 * mebibyte));
  const list = Array.from({ length: buckets }, (_, bucket) =>
    Array.from({ length: slots }, (_, slot) =>
      run(
        bucket * 64 * mebibyte + ((slot * 7) % slots) * tensor,
        bucket * 64 * mebibyte + slot * tensor,
        tensor,
      ),
    ).flat(),
  );
  await measureUploads('uploads of 64 MiB in 20 tensors each', list, buckets * slots * tensor);
}
{
  const list = Array.from({ length: 16 }, (_, index) => {
    const at = index * 256 * mebibyte;
    return [at % (bytes / 2), at % bytes, 2048, (64 * mebibyte) / 2048, 4096, 2048];
  });
  await measureUploads('uploads of 64 MiB in rows of 2048 bytes', list, 16 * 64 * mebibyte);
}
for (const [name, size] of [
  ['4 KiB', 4096],
  ['16 MiB', 16 * mebibyte],
] as const) {
  const waits: number[] = [];
  for (let round = 0; round < 100; round += 1) {
    const [milliseconds] = await timed(() => uploads([run(0, 0, size)]));
    waits.push(milliseconds);
  }
  waits.sort((a, b) => a - b);
  print(`one upload of ${name}, asked to answered, median`, waits[50]!, 'ms');
}

async function measureDigest(target: CudaDeviceBuffer): Promise<void> {
  const count = 100;
  const size = Math.floor(bytes / count / 256) * 256 - 6;
  const offsets = Float64Array.from({ length: count }, (_, index) => index * (size + 6));
  const sizes = new Float64Array(count).fill(size);
  const parts = Float64Array.from([...offsets].flatMap((offset) => [offset, size, 1, size, 0, size, size]));
  const [loading] = await timed(() => device.digest(target, Float64Array.of(0, 8, 1, 8, 0, 8, 8)));
  print('first digest: loads the kernel', loading, 'ms');
  let best = Number.POSITIVE_INFINITY;
  let onGpu: BigUint64Array = new BigUint64Array();
  for (let round = 0; round < 5; round += 1) {
    const [milliseconds, digests] = await timed(() => device.digest(target, parts));
    best = Math.min(best, milliseconds);
    onGpu = digests;
  }
  print('digest on the GPU', gigabytes(count * size, best), 'GB/s');
  const [onHost, digests] = await timed(() => digestTensors(pool, segment, offsets, sizes));
  print(`digest on the host, ${pool.threads} threads`, gigabytes(count * size, onHost), 'GB/s');
  const equal = onGpu.every((digest, index) => digest === digests[index]);
  console.log(`digests of ${count} tensors: ${equal ? 'equal on GPU and host' : 'DIFFERENT'}`);
}

await uploads([run(0, 0, bytes)]);
await measureDigest(buffer);
{
  const half = bytes / 2;
  const [first] = [await device.copy({ buffer, offset: 0 }, { buffer, offset: half }, half)];
  const { startedAt, endedAt } = await device.copy({ buffer, offset: 0 }, { buffer, offset: half }, half);
  print(
    'D2D, bytes copied',
    gigabytes(half, Math.min(endedAt - startedAt, first!.endedAt - first!.startedAt)),
    'GB/s',
  );
}
for (let round = 0; round < 2; round += 1) {
  const [allocating, extra] = await timed(() => device.allocate(1024 * mebibyte));
  const [handling] = await timed(() => extra.ipcHandle);
  const [freeing] = await timed(() => extra.free());
  print('allocate 1 GiB', allocating, 'ms');
  print('  its handle', handling, 'ms');
  print('  free it', freeing, 'ms');
}
{
  const size = 64 * mebibyte;
  const count = bytes / size;
  const list = Array.from({ length: 4 * count }, (_, index) =>
    run((index % count) * size, (index % count) * size, size),
  );
  const other = Mapping.open(path, false);
  const [milliseconds, [, pinnedAfter]] = await timed(() =>
    Promise.all([uploads(list), timed(() => device.pin(other))]),
  );
  print('uploads of 64 MiB while another mapping is pinned', gigabytes(4 * bytes, milliseconds), 'GB/s');
  print('  and the pinning meanwhile', gigabytes(bytes, pinnedAfter[0]), 'GB/s');
  device.unpin(other);
  other.close();
}
{
  const fresh = Mapping.open(path, false);
  const [milliseconds] = await timed(() => device.pin(fresh));
  print('pin a mapping for reading, not touched', gigabytes(bytes, milliseconds), 'GB/s');
  device.unpin(fresh);
  fresh.close();
}
for (const order of ['one after the other', 'at once'] as const) {
  // As when a user's files in /dev/shm are registered in place.
  const adopted = Mapping.open(path, false);
  const size = Float64Array.of(bytes / 4, bytes / 4, bytes / 4, bytes / 4);
  const offsets = size.map((one, index) => one * index);
  const [milliseconds] = await timed(async () => {
    const digests = digestTensors(pool, adopted, offsets, size);
    if (order === 'one after the other') await digests;
    await Promise.all([digests, device.pin(adopted)]);
  });
  print(`adopt: digest and pin a mapping for reading, ${order}`, gigabytes(bytes, milliseconds), 'GB/s');
  device.unpin(adopted);
  adopted.close();
}
print('limit again', await measureLimit(), 'GB/s');
pool.close();
device.close();
