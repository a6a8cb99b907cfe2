/**
 * `npm run bench:registration -- [GiB] [rounds] [directory]`: how fast checkpoints are registered in the host memory of one
 * rank, compared with memcpy on as many threads, a file of that directory with direct reads alone, and with a GPU also with
 * pinning alone. Default: 1 GiB, 5 rounds, the system's directory of temporary files, which has to be on a disk.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { encodeHeader } from '../src/checkpoint/safetensors-writer.ts';
import { Cluster, type NamedTensors } from '../src/index.ts';
import { CudaDevice } from '../src/native-bridge/cuda-device.ts';
import { Mapping, ThreadPool } from '../src/native-bridge/memory.ts';
import { defaultDevices, divideThreads } from '../src/processes/devices.ts';
import { DiskFile } from './disk-file.ts';
import { gpuEnvironment } from './gpu/environment.ts';
import { median } from './median.ts';
import { plainMemcpy } from './plain-memcpy.ts';
import { PlainTransfer } from './plain-transfer.ts';
import { type Figure, writeReport } from './report.ts';

const gibibytes = Number(process.argv[2] ?? 1);
const rounds = Number(process.argv[3] ?? 5);
const diskDirectory = process.argv[4] ?? tmpdir();
const tensorCount = 378;
const threads = availableParallelism();
const devices = defaultDevices();
const onGpu = devices.kind === 'cuda';
const directory = mkdtempSync('/dev/shm/bench-registration-');
process.on('exit', () => rmSync(directory, { recursive: true, force: true }));

/** All tensors have the same size, the average of a model of this size. */
const tensorBytes = Math.round((gibibytes * 2 ** 30) / tensorCount / 512) * 512;
const bytes = tensorCount * tensorBytes;
const content = randomBytes(Math.min(tensorBytes, 2 ** 26));

function makeTensors(): NamedTensors {
  const entries = Array.from({ length: tensorCount }, (_, index) => {
    const data = new Uint8Array(tensorBytes);
    for (let at = 0; at < tensorBytes; at += content.length) {
      data.set(content.subarray(0, Math.min(content.length, tensorBytes - at)), at);
    }
    data[0] = index;
    return [`layers.${index}.weight`, { dtype: 'BF16', shape: [tensorBytes / 2], data }] as const;
  });
  return Object.fromEntries(entries);
}

/** Writes a user's file, with the system's default page size. */
async function writeFile(tensors: NamedTensors): Promise<string> {
  const entries = Object.entries(tensors);
  const { header, offsets, totalBytes } = encodeHeader(
    entries.map(([name, { dtype, shape }]) => ({ name, dtype, shape })),
  );
  const path = join(directory, 'model.safetensors');
  const file = Mapping.create(path, totalBytes);
  const pool = new ThreadPool(threads);
  await pool.write(
    entries.map(([, { data }]) => data),
    file,
    offsets,
  );
  file.write(0, header);
  pool.close();
  file.close();
  return path;
}

async function rate(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  const measured = bytes / (performance.now() - startedAt) / 1e6;
  console.error(`  ${measured.toFixed(2)} GB/s`);
  return measured;
}

async function measure(what: string, count: number, once: () => Promise<number>): Promise<number[]> {
  console.error(what);
  const rates: number[] = [];
  for (let round = 0; round < count; round += 1) rates.push(await once());
  return rates;
}

const memcpyRate = async () => (await plainMemcpy(bytes, threads)) / 1e9;

/** The rate of pinning the file alone: the upper bound for registering it in place. */
async function pinRate(path: string): Promise<number[]> {
  const { pin } = divideThreads(devices, threads);
  const device = CudaDevice.open({ index: 0, pinThreads: pin });
  const rates = await measure('pinning alone', 3, async () => {
    const file = Mapping.open(path, false);
    const measured = await rate(() => device.pin(file));
    await device.unpin(file);
    file.close();
    return measured;
  });
  device.close();
  return rates;
}

/** As many reads under way, and as long, as a rank has. */
const [directReads, directReadBytes] = [16, 4 * 2 ** 20];

/** A file on a disk: cold, in turn with direct reads alone of the same file; then out of the page cache. */
async function measureDisk(cluster: Cluster, file: DiskFile): Promise<Figure[]> {
  const plain = new PlainTransfer();
  const [alone, grown]: [number[], number[]] = [[], []];
  const once = async (release: boolean) => {
    const measured = await rate(() => cluster.register('disk', file.path));
    await cluster.unregister('disk');
    if (release) await cluster.releaseSpareMemory();
    return measured;
  };
  const cold = async (release: boolean) => {
    file.dropFromCache();
    alone.push((await plain.rate('read', directReads, directReadBytes, bytes, file.path)) / 1e9);
    const measured = await once(release);
    grown.push(file.cachedBytes());
    return measured;
  };
  const first = await measure('a file on disk for the first time', rounds, () => cold(true));
  await once(false);
  const again = await measure('a file on disk into memory used before', rounds, () => cold(false));
  file.fetchIntoCache();
  const cached = await measure('a file in the page cache', rounds, () => once(false));
  plain.close();
  const limit = median(alone);
  return [
    gbps(`direct reads alone of a file on disk, ${directReads} threads`, limit),
    gbps('a file on disk, the first time', median(first)),
    { name: 'a file on disk, the first time / direct reads alone', value: median(first) / limit, unit: '' },
    gbps('a file on disk, into memory used before', median(again)),
    {
      name: 'a file on disk, into memory used before / direct reads alone',
      value: median(again) / limit,
      unit: '',
    },
    {
      name: "the file's part in the page cache afterwards",
      value: Math.max(...grown) / bytes,
      unit: '',
      atMost: 0.01,
    },
    gbps('a file in the page cache, into memory used before', median(cached)),
  ];
}

const gbps = (name: string, value: number, atLeast?: number): Figure => {
  // The bounds are for machines with a GPU and 16 cores, and for checkpoints that are not tiny.
  return { name, value, unit: 'GB/s', ...(onGpu && gibibytes >= 8 && atLeast !== undefined && { atLeast }) };
};

const figures: Figure[] = [];
const tensors = makeTensors();
const path = await writeFile(tensors);
const alone = onGpu ? median(await pinRate(path)) : null;
if (alone !== null) figures.push(gbps('pinning a file in /dev/shm, nothing else going on', alone));

const namespace = basename(directory);
const cluster = await Cluster.start({
  ranks: 1,
  // No engine listens there; registering contacts none.
  instances: [{ name: 'engine', endpoint: 'http://127.0.0.1:9', ranks: [0] }],
  devices: onGpu ? devices : { kind: 'host', namespace, capacity: 2 ** 20 },
});
try {
  const memcpy: number[] = [];
  const adopted = await measure('a file in /dev/shm', rounds, async () => {
    memcpy.push(await memcpyRate());
    const measured = await rate(() => cluster.register('file', path));
    await cluster.unregister('file');
    return measured;
  });
  const onDisk = new DiskFile(diskDirectory, path);
  process.on('exit', () => onDisk.remove());
  rmSync(path);
  const disk = await measureDisk(cluster, onDisk);
  onDisk.remove();
  const first = await measure('tensors for the first time', rounds, async () => {
    memcpy.push(await memcpyRate());
    const measured = await rate(() => cluster.register('tensors', { tensors }));
    await cluster.unregister('tensors');
    await cluster.releaseSpareMemory();
    return measured;
  });
  await cluster.register('tensors', { tensors });
  await cluster.register('tensors', { tensors });
  const again = await measure('tensors into memory that an earlier checkpoint left', rounds, async () => {
    memcpy.push(await memcpyRate());
    return rate(() => cluster.register('tensors', { tensors }));
  });
  const copying = median(memcpy);
  figures.push(
    gbps(`memcpy of as many bytes, ${threads} threads`, copying),
    gbps('a file in /dev/shm', median(adopted), 15),
    { name: 'a file in /dev/shm / memcpy', value: median(adopted) / copying, unit: '' },
    ...(alone === null
      ? []
      : [{ name: 'a file in /dev/shm / pinning alone', value: median(adopted) / alone, unit: '' }]),
    // At least twice the rate of checkpoint-engine, which needs 7.6 s for 16.2 GB.
    gbps('tensors from memory, the first time', median(first), (2 * 16.2) / 7.6),
    { name: 'tensors from memory, the first time / memcpy', value: median(first) / copying, unit: '' },
    gbps('tensors from memory, into memory used before', median(again), 20),
    {
      name: 'tensors from memory, into memory used before / memcpy',
      value: median(again) / copying,
      unit: '',
    },
    ...disk,
  );
} finally {
  await cluster.stop();
}
writeReport({
  name: onGpu ? 'registration-gpu' : 'registration',
  title: `Registering a checkpoint${onGpu ? ', on a machine with a GPU' : ''}`,
  command: `npm run bench:registration -- ${gibibytes} ${rounds} ${diskDirectory}`,
  method:
    `${(bytes / 1e9).toFixed(2)} GB in ${tensorCount} BF16 tensors, one rank. The time is that of Cluster.register, until ` +
    `every byte is digested${onGpu ? ' and pinned' : ''}. A file in /dev/shm has the pages that posix_fallocate gave it, and is ` +
    `mapped again each time; "the first time" allocates all memory. A file on disk is not in the page cache, and read in ` +
    `turn by ${directReads} threads with direct reads of 4 MiB that keep nothing. Medians of ${rounds} rounds, of memcpy in ` +
    `turn with all of them.`,
  figures,
  ...(onGpu && { environment: gpuEnvironment(false) }),
});
process.exit();
