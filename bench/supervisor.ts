/** `npm run bench:supervisor`: what a checkpoint of very many tensors costs the supervisor, and what it sends. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { median } from './median.ts';
import { type Figure, writeReport } from './report.ts';
import type { SupervisorMeasurement } from './supervisor/once.ts';

const repetitions = 3;
const deadlineMilliseconds = 400_000;

interface Case {
  readonly name: string;
  readonly ranks: number;
  /** 0 for those of Kimi-K2 with experts in INT4. */
  readonly tensors: number;
  readonly bounds: Partial<
    Record<'plan' | 'planUnchanged' | 'unchanged' | 'silent' | 'memoryMiB' | 'sent', number>
  >;
}

const cases: readonly Case[] = [
  {
    name: '208,000 tensors, 256 ranks',
    ranks: 256,
    tensors: 0,
    bounds: { plan: 1_000, planUnchanged: 10, silent: 500, memoryMiB: 1_024, sent: 2 },
  },
  {
    name: '208,000 tensors, 1,024 ranks',
    ranks: 1_024,
    tensors: 0,
    bounds: { plan: 1_000, unchanged: 500, silent: 500, memoryMiB: 1_024, sent: 2 },
  },
  {
    name: '1,000,000 tensors, 64 ranks',
    ranks: 64,
    tensors: 1_000_000,
    bounds: { plan: 5_000, planUnchanged: 10, memoryMiB: 2_048, sent: 2 },
  },
];

/** In a new process, because optimized code and memory of an earlier measurement would improve a later one. */
async function measureOnce({ name, ranks, tensors }: Case): Promise<SupervisorMeasurement> {
  const program = fileURLToPath(new URL('supervisor/once.ts', import.meta.url));
  const child = fork(program, [String(ranks), String(tensors)], {
    timeout: deadlineMilliseconds,
    killSignal: 'SIGKILL',
  });
  const [outcome] = (await Promise.race([once(child, 'message'), once(child, 'exit')])) as [unknown];
  if (typeof outcome !== 'object' || outcome === null) throw new Error(`measuring ${name} failed`);
  await once(child, 'exit');
  return outcome as SupervisorMeasurement;
}

function figuresOf({ name, bounds }: Case, runs: readonly SupervisorMeasurement[]): Figure[] {
  const of = (pick: (run: SupervisorMeasurement) => number) => median(runs.map(pick));
  const figure = (what: string, unit: string, value: number, atMost?: number): Figure => {
    return { name: `${name}: ${what}`, value, unit, ...(atMost === undefined ? {} : { atMost }) };
  };
  return [
    figure(
      'register',
      'ms',
      of((run) => run.register),
    ),
    figure(
      'plan, cold',
      'ms',
      of((run) => run.plan),
      bounds.plan,
    ),
    figure(
      'plan, unchanged',
      'ms',
      of((run) => run.planUnchanged),
      bounds.planUnchanged,
    ),
    figure(
      'sending plan and manifest to all hosts, and open',
      'ms',
      of((run) => run.distribute),
    ),
    figure(
      'update, cold',
      'ms',
      of((run) => run.cold),
    ),
    figure(
      'update, unchanged',
      'ms',
      of((run) => run.unchanged),
      bounds.unchanged,
    ),
    figure(
      'longest without an answer, in the cold update',
      'ms',
      of((run) => run.silent),
      bounds.silent,
    ),
    figure('manifest, packed', 'MiB', of((run) => run.manifest) / 2 ** 20),
    figure(
      'all that is sent to a host, of the packed manifest',
      '',
      of((run) => run.hostBytes / run.manifest),
      bounds.sent,
    ),
    figure('peak resident', 'MiB', of((run) => run.peakResident) / 2 ** 20, bounds.memoryMiB),
  ];
}

const figures: Figure[] = [];
for (const one of cases) {
  const runs: SupervisorMeasurement[] = [];
  for (let run = 0; run < repetitions; run += 1) runs.push(await measureOnce(one));
  figures.push(...figuresOf(one, runs));
}
writeReport({
  name: 'supervisor',
  title: 'The supervisor and very many tensors',
  command: 'npm run bench:supervisor',
  method:
    'The supervisor, with its planner, in a process of its own; its messages pass through ZeroMQ to hosts of eight ranks, all in one ' +
    'other process, which answer at once. The tensors are those of Kimi-K2 with experts in INT4, once or as often as ' +
    `it takes. Times are processor time of the supervisor's process, but the longest without an answer, which has that of others on the machine in it. Cold is a registered checkpoint that no rank has planned. Median of ${repetitions} runs, each in a fresh process.`,
  figures,
});
