// The matrices of faults: who, when, how. `npm run test:faults` runs the simulated one, `--real` that of real processes too;
// with `--write` both tables go to docs/failures.md, that of real processes with what earlier runs have measured.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { runCommand } from '../src/cli/interrupt.ts';
import { UsageError } from '../src/errors.ts';
import { packageRoot } from '../src/package-root.ts';
import { parseCount } from '../src/units.ts';
import { documentOf, simulatedPart, simulatedPartIn } from './faults/document.ts';
import { realCells } from './faults/matrix.ts';
import { MeasuredCells } from './faults/measured-cells.ts';
import { ranWithOwnSharedMemory } from './faults/own-shared-memory.ts';
import { known, nameOf, type RealOutcome, runReal } from './faults/real.ts';
import { faultsOf, runSimulated } from './faults/simulated.ts';
import { whyNoNamespaces } from './host-network.ts';

interface Options {
  readonly real?: string | true;
  readonly simulated: boolean;
  readonly only: string;
  readonly results?: string;
  readonly since?: string;
  readonly seed: string;
  readonly write?: string;
}

const defaultResults = fileURLToPath(new URL('bench/results/failures.json', packageRoot));

const program = new Command('npm run test:faults --')
  .description('Injects every fault at every moment, and says what became of each.')
  .option('--real [n]', 'also on real processes: all cells, or so many of them, chosen by the seed')
  .option('--no-simulated', 'not on simulated clusters; --write keeps the table of these that the file has')
  .option('--only <pattern>', 'only real cells whose name matches, as "supervisor, SIGKILL"', '')
  .option(
    '--results <file>',
    'keep the results of real cells there, and those that it has of cells which are not run (default: with --write bench/results/failures.json)',
  )
  .option(
    '--since <date>',
    'do not run again what was measured since then: to go on where a run was interrupted',
  )
  .option('--seed <seed>', 'which of the real cells', '1')
  .option('--write <file>', 'write the tables as Markdown, as to docs/failures.md')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .action(async (options: Options) => {
    if (options.real !== undefined && (await ranWithOwnSharedMemory())) return;
    await runCommand((signal) => main(options, signal));
  });

async function main(options: Options, signal: AbortSignal): Promise<void> {
  const kept = options.simulated || options.write === undefined ? null : keptPart(options.write);
  const say = (line: string) => process.stdout.write(`${line}\n`);
  const simulated = options.simulated ? await runSimulated(signal, say) : [];
  const results = options.results ?? (options.write === undefined ? null : defaultResults);
  const measured = new MeasuredCells(results);
  const real = await realRun(options, measured, signal, say);
  if (options.write !== undefined && !signal.aborted)
    writeFileSync(options.write, documentOf(kept ?? simulatedPart(simulated), real, leftOut(real)));
  const bad = simulated.filter(({ result }) => result !== null && faultsOf(result).length > 0);
  const badReal = real.filter(({ problems }) => problems.length > 0);
  const count = simulated.length + real.length;
  const untried = badReal.filter(({ isUntried }) => isUntried).length;
  const words =
    untried === 0 ? '' : `, and ${untried} of these not run, as the harness failed before the fault`;
  say(`${count} cells, ${bad.length + badReal.length} of them bad${words}`);
  if (bad.length + badReal.length > 0) process.exitCode = 1;
}

/** The table of simulated clusters that the document has. Throws `UsageError` if it has none. */
function keptPart(path: string): string {
  const part = existsSync(path) ? simulatedPartIn(readFileSync(path, 'utf8')) : null;
  if (part !== null) return part;
  throw new UsageError(`${path} has no table of simulated clusters to keep: leave --no-simulated out`);
}

function dateOf(option: string): Date {
  const date = new Date(option);
  if (Number.isNaN(date.getTime()))
    throw new UsageError(`--since is "${option}"; give a date such as 2026-11-30T11:00`);
  return date;
}

/** Cells that are possible, and were not run this time. */
function leftOut(real: readonly RealOutcome[]): string[] {
  const names = new Set(real.map(nameOf));
  return realCells(whyNoNamespaces())
    .filter((cell) => cell.why === undefined && !names.has(nameOf(cell)))
    .map(nameOf);
}

async function realRun(
  { real, seed, only, since }: Options,
  measured: MeasuredCells,
  signal: AbortSignal,
  say: (line: string) => void,
): Promise<RealOutcome[]> {
  if (real === undefined) return realCells(whyNoNamespaces()).flatMap((cell) => known(cell, measured));
  return runReal({
    sample: real === true ? null : parseCount(real, '--real'),
    seed: parseCount(seed, '--seed'),
    only: new RegExp(only),
    measured,
    since: since === undefined ? null : dateOf(since),
    signal,
    say,
  });
}

await program.parseAsync();
