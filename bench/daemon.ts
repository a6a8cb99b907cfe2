/**
 * `npm run bench:daemon`: what a step of a trainer costs beyond the cluster's own update when it is asked of a daemon by
 * the Python client, whether anything grows over many steps, and what the daemon takes while nobody asks.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeQwen3Model } from '../scenarios/qwen3-model.ts';
import { startReferenceEngine } from '../scenarios/reference-engine/index.ts';
import { openCheckpoint } from '../src/checkpoint/source.ts';
import { median } from './median.ts';
import { writeReport } from './report.ts';

/** V8's heaps have their size by then. */
const WARMUP = 500;
const STEPS = 1_000;
const IDLE_SECONDS = 20;
const ranks = 2;
const root = fileURLToPath(new URL('..', import.meta.url));

const roles = ['daemon', 'supervisor', 'rank', 'trainer'] as const;

interface Held {
  /** By process: a heap that has its size stays within what collections leave to chance. */
  readonly megabytes: Record<(typeof roles)[number], number>;
  readonly files: number;
  readonly shared: number;
}

/** Name, dimensions and bytes of each tensor of a model. */
function layoutOf({ names, shapeStarts, dimensions, bytes }: Awaited<ReturnType<typeof openCheckpoint>>) {
  return names.map((name, row) => [
    name,
    [...dimensions.slice(shapeStarts[row], shapeStarts[row + 1])],
    bytes[row],
  ]);
}

/** Of one process, in milliseconds. */
function processorTime(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

execFileSync(process.execPath, ['scripts/build.mjs'], { cwd: root, stdio: 'inherit' });
const scratch = mkdtempSync(join(tmpdir(), 'weightcast-bench-'));
const namespace = basename(scratch);
const model = join(scratch, 'model');
await writeQwen3Model({ directory: model, bytes: 16 * 2 ** 20, seed: 1 });
const index = await openCheckpoint(model);
const engine = await startReferenceEngine({
  name: 'bench',
  model,
  ranks,
  deviceNamespace: namespace,
  deviceCapacity: 2 ** 28,
});
const socket = join(scratch, 'daemon.sock');
const daemon = spawn(
  process.execPath,
  [join(root, 'dist/src/cli/main.js'), 'serve', '--socket', socket, '--devices', `host:${namespace}`],
  { stdio: ['ignore', 'pipe', 'inherit'] },
);
await once(daemon.stdout!, 'data');
const given = {
  socket,
  endpoint: engine.endpoint,
  ranks,
  pid: daemon.pid,
  layout: layoutOf(index),
  warmup: WARMUP,
  steps: STEPS,
};
const printed = execFileSync('python3', [join(root, 'bench/daemon-steps.py'), JSON.stringify(given)], {
  env: { ...process.env, PYTHONPATH: join(root, 'python') },
  maxBuffer: 2 ** 28,
  stdio: ['ignore', 'pipe', 'inherit'],
});
const { beyond, steps, before, after } = JSON.parse(printed.toString()) as {
  readonly beyond: number[];
  readonly steps: number[];
  readonly before: Held;
  readonly after: Held;
};
const idleFrom = processorTime(daemon.pid!);
await new Promise((resolve) => setTimeout(resolve, 1_000 * IDLE_SECONDS));
const idle = (processorTime(daemon.pid!) - idleFrom) / (10 * IDLE_SECONDS);
daemon.kill('SIGTERM');
await once(daemon, 'exit');
await engine.stop();
rmSync(scratch, { recursive: true });

writeReport({
  name: 'daemon',
  title: 'Steps of a trainer by the daemon',
  command: 'npm run bench:daemon',
  method:
    `A model of 16 MiB in the layout of Qwen3 and the reference engine with ${ranks} workers. The publisher in Python ` +
    `publishes a version and updates, ${STEPS} times after ${WARMUP} that do not count. Beyond the update: from the call of update() to ` +
    'its return, less the duration in its report. Growth over these steps: of the private memory of each process (of the ranks, ' +
    'the one that holds most), and of the open files of the daemon, its supervisor ' +
    "and ranks and the files in their shared memory. Idle: the daemon's own process in " +
    `${IDLE_SECONDS} s without a request.`,
  figures: [
    { name: 'beyond the update, median', value: median(beyond), unit: 'ms', atMost: 10 },
    { name: 'publish and update, median', value: median(steps), unit: 'ms' },
    ...roles.map((role) => ({
      name: `growth of memory, ${role}`,
      value: after.megabytes[role] - before.megabytes[role],
      unit: 'MiB',
      atMost: 32,
    })),
    { name: 'growth of open files', value: after.files - before.files, unit: '', atMost: 0 },
    { name: 'growth of files in shared memory', value: after.shared - before.shared, unit: '', atMost: 0 },
    { name: 'idle, of one core', value: idle, unit: '%', atMost: 1 },
  ],
});
