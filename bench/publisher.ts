/**
 * `npm run bench:publisher [-- cuda]`: how fast a trainer's tensors come into the memory of a version that is used again,
 * against a memcpy of the same bytes, or those of a GPU against one copy into pinned memory. Needs Python with torch:
 * WEIGHTCAST_PYTHON: `bash test/python/install.sh` prints the path of one.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Daemon } from '../src/daemon/daemon.ts';
import { packageRoot } from '../src/package-root.ts';
import { gpuEnvironment } from './gpu/environment.ts';
import { median } from './median.ts';
import { writeReport } from './report.ts';

const MIB = 2 ** 20;
/** Of a decoder layer, many times: small and large ones. */
const LAYER = [32 * MIB, 8 * MIB, 8 * MIB, 32 * MIB, 16_384, 16_384];
const ofGpu = process.argv[2] === 'cuda';
const LAYERS = ofGpu ? 48 : 12;
const WARMUP = 3;
const STEPS = 15;

const root = fileURLToPath(packageRoot);
const scratch = mkdtempSync(join(tmpdir(), 'weightcast-bench-'));
const daemon = await Daemon.start({
  version: 'bench',
  socket: join(scratch, 'daemon.sock'),
  roots: [],
  allowEngines: [],
  instances: [],
  cluster: { devices: { kind: 'host', namespace: basename(scratch) } },
});
const sizes = Array.from({ length: LAYERS }, () => LAYER).flat();
const device = ofGpu ? 'cuda' : 'cpu';
const given = { socket: daemon.socket, sizes, warmup: WARMUP, steps: STEPS, device };
const python = process.env.WEIGHTCAST_PYTHON ?? 'python3';
const program = join(root, 'bench/publisher-versions.py');
const { stdout } = await promisify(execFile)(python, [program, JSON.stringify(given)], {
  env: { ...process.env, PYTHONPATH: join(root, 'python') },
});
await daemon.stop();
rmSync(scratch, { recursive: true });
const { copies, puts, files } = JSON.parse(stdout) as {
  readonly copies: number[];
  readonly puts: number[];
  readonly files: number;
};
const bytes = sizes.reduce((sum, size) => sum + size, 0);

const plain = ofGpu ? 'pinned D2H' : 'memcpy';
const way = ofGpu
  ? 'In turn: one copy of as many bytes from the GPU into pinned memory, and put_all of a version until all of it has arrived'
  : 'In turn, on one thread: memcpy of all of them into one piece of used memory, and put_all of a version';

writeReport({
  name: ofGpu ? 'publisher-gpu' : 'publisher',
  title: `A trainer's tensors${ofGpu ? ' of a GPU' : ''} into shared memory`,
  command: `npm run bench:publisher${ofGpu ? ' -- cuda' : ''}`,
  method:
    `${sizes.length} FP32 tensors of torch, ${(bytes / MIB).toFixed(0)} MiB, from 16 KiB to 32 MiB, into ${files} file that ` +
    `an earlier version has used. ${way}; ${STEPS} times after ${WARMUP} that do not count. Medians; the ratio is the ` +
    `median of each turn's.`,
  environment: ofGpu ? gpuEnvironment(true) : [],
  figures: [
    { name: plain, value: median(copies), unit: 'GB/s' },
    { name: 'put', value: median(puts), unit: 'GB/s' },
    {
      name: `put of ${plain}`,
      value: median(puts.map((put, step) => put / copies[step]!)),
      unit: '',
      atLeast: ofGpu ? 0.9 : 0.8,
    },
  ],
});
