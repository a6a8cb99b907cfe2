import { Command } from 'commander';
import { allArrived } from '../simulation/all-arrived.ts';
import { type RunResult, run } from '../simulation/run.ts';
import { updateAtScale } from '../simulation/scale.ts';
import { runCommand } from '../src/cli/interrupt.ts';
import { parseCount } from '../src/units.ts';

interface Options {
  readonly seed?: string;
  readonly seeds: string;
  readonly first: string;
  readonly ranks?: string;
  readonly buckets: string;
}

const program = new Command('npm run simulate --')
  .description(
    'Runs whole clusters in one process under virtual time, with faults at random moments, and checks that ' +
      'nothing happens that must not. The same seed makes the same run.',
  )
  .option('--seed <n>', 'replay one run and print all that happens')
  .option('--seeds <n>', 'how many runs', '1000')
  .option('--first <n>', 'seed of the first', '1')
  .option('--ranks <n>', 'instead: one update of a cluster of that many ranks, without faults')
  .option('--buckets <n>', 'of that update', '4')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .action((options: Options) => runCommand((signal) => simulate(options, signal)));

async function simulate(options: Options, signal: AbortSignal): Promise<void> {
  const { seed, seeds, first, ranks, buckets } = options;
  if (seed !== undefined) await replay(parseCount(seed, '--seed'));
  else if (ranks !== undefined) await scale(parseCount(ranks, '--ranks'), parseCount(buckets, '--buckets'));
  else await soak(parseCount(first, '--first'), parseCount(seeds, '--seeds'), signal);
}

async function replay(seed: number): Promise<void> {
  const result = await run({ seed, keepTrace: Number.POSITIVE_INFINITY });
  process.stdout.write(`${result.trace.join('\n')}\n\n${summaryOf(result)}\n`);
  if (result.violations.length > 0) process.exitCode = 1;
}

async function soak(first: number, seeds: number, signal: AbortSignal): Promise<void> {
  const failed: number[] = [];
  let [runs, faults, events, milliseconds] = [0, 0, 0, 0];
  for (let seed = first; seed < first + seeds && !signal.aborted; seed += 1) {
    const result = await run({ seed });
    runs += 1;
    faults += result.faults;
    events += result.events;
    milliseconds += result.virtualMilliseconds;
    if (result.violations.length === 0) continue;
    failed.push(seed);
    process.stdout.write(`${summaryOf(result)}\nreplay it: npm run simulate -- --seed ${seed}\n\n`);
  }
  const hours = (milliseconds / 3_600_000).toFixed(1);
  process.stdout.write(
    `${runs} runs, ${faults} faults, ${events} events, ${hours} hours of virtual time: ${failed.length} failed\n`,
  );
  if (failed.length > 0) process.exitCode = 1;
}

async function scale(ranks: number, buckets: number): Promise<void> {
  let last = performance.now();
  const { report, violations, events } = await updateAtScale(ranks, buckets, (phase) => {
    const now = performance.now();
    process.stdout.write(`${phase.padEnd(8)} ${((now - last) / 1_000).toFixed(2)} s\n`);
    last = now;
  });
  const arrived = allArrived(report) ? 'arrived' : 'not proved to have arrived';
  const virtual = `${report.seconds.toFixed(3)} s of virtual time`;
  const mebibytes = Math.round(process.resourceUsage().maxRSS / 1_024);
  process.stdout.write(
    `${report.ranks} ranks, ${report.buckets} buckets, ${virtual}, ${arrived}; ` +
      `${events} events, at most ${mebibytes} MiB of memory\n`,
  );
  for (const violation of violations) process.stdout.write(`  ${violation}\n`);
  if (violations.length > 0 || !allArrived(report)) process.exitCode = 1;
}

function summaryOf({ seed, digest, violations, faults, succeeded, failed }: RunResult): string {
  const asked = `${succeeded} requests succeeded, ${failed} failed`;
  const head = `seed ${seed}: ${faults} faults, ${asked}, ${violations.length} violations (digest ${digest})`;
  return [head, ...violations].join('\n  ');
}

await program.parseAsync();
