// Real processes, and a random fault in each of many updates: `npm run chaos -- --seed 7 --updates 200`.
import { Command } from 'commander';
import { SeededRandom } from '../simulation/random.ts';
import { runCommand } from '../src/cli/interrupt.ts';
import { UsageError, VerificationError } from '../src/errors.ts';
import { parseCount } from '../src/units.ts';
import { type RealCell, RealMatrix, realCells } from './faults/matrix.ts';
import { ranWithOwnSharedMemory } from './faults/own-shared-memory.ts';
import { nameOf, type RealOutcome, runOne, wordsOf } from './faults/real.ts';
import { whyNoNamespaces } from './host-network.ts';

interface Options {
  readonly seed: string;
  readonly updates: string;
  readonly from: string;
}

/** So that ranks which were killed again and again are not yet started slowly: a step has a minute to heal. */
const mostDeaths = 6;
/** Of a step whose fault did not happen. */
const mostTries = 3;
const inUpdate = ['preparing', 'opening', 'pausing', 'streaming', 'finishing', 'resuming', 'joining'];

new Command('npm run chaos --')
  .description(
    'Updates engines again and again, with a random fault in each update, and checks every invariant after each.',
  )
  .option('--seed <seed>', 'decides which fault happens when', '1')
  .option('--updates <n>', 'how many', '20')
  .option('--from <step>', 'leave out the steps before this one, to see one fail again', '1')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .action(async (options: Options) => {
    if (!(await ranWithOwnSharedMemory())) await runCommand((signal) => main(options, signal));
  })
  .parse();

async function main(options: Options, signal: AbortSignal): Promise<void> {
  const seed = parseCount(options.seed, '--seed');
  const updates = parseCount(options.updates, '--updates');
  const from = parseCount(options.from, '--from');
  if (from > updates) throw new UsageError(`--from is ${from}, of ${updates} updates`);
  const cells = realCells(whyNoNamespaces()).filter(
    ({ why, when }) => why === undefined && inUpdate.includes(when),
  );
  const random = new SeededRandom(seed);
  const steps = Array.from({ length: updates }, () => cells[Math.floor(random.next() * cells.length)]!);
  const matrix = new RealMatrix(mostDeaths);
  signal.addEventListener('abort', () => void matrix.end());
  try {
    for (const [at, cell] of steps.entries())
      if (at + 1 >= from) await step(matrix, cell, { seed, at: at + 1, updates }, signal);
  } finally {
    await matrix.end();
  }
  process.stdout.write(`seed ${seed}: ${updates - from + 1} updates, every invariant held\n`);
}

async function step(
  matrix: RealMatrix,
  cell: RealCell,
  { seed, at, updates }: { readonly seed: number; readonly at: number; readonly updates: number },
  signal: AbortSignal,
): Promise<void> {
  let outcome: RealOutcome;
  let tries = 0;
  do {
    outcome = await runOne(matrix, cell);
    signal.throwIfAborted();
    process.stdout.write(`${at} of ${updates}: ${nameOf(cell)}: ${wordsOf(outcome)}\n`);
    tries += 1;
    // On a busy machine a moment may be over before it is noticed: nothing was shown yet.
  } while (outcome.isUntried && tries < mostTries);
  if (outcome.problems.length === 0) return;
  const what = outcome.isUntried ? 'not run, as the harness failed before the fault: ' : '';
  throw new VerificationError(
    `${what}seed ${seed}, update ${at} (${nameOf(cell)}): ${outcome.problems.join('; ')}. ` +
      `Again: npm run chaos -- --seed ${seed} --updates ${updates} --from ${at}`,
  );
}
