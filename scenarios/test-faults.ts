// The matrix of faults: who, when, how. `npm run test:faults`; with `--write` the table goes to docs/failures.md.
import { writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { type CellResult, type Moment, moments, runCell } from '../simulation/fault-matrix.ts';
import { matrixFaults } from '../simulation/matrix-faults.ts';
import { runCommand } from '../src/cli/interrupt.ts';

interface Cell {
  readonly who: string;
  readonly how: string;
  readonly when: Moment;
  /** Null if the cell is impossible. */
  readonly result: CellResult | null;
  readonly why: string | undefined;
}

const program = new Command('npm run test:faults --')
  .description('Injects every fault at every moment, on simulated clusters, and says what became of each.')
  .option('--write <file>', 'write the table as Markdown, as to docs/failures.md')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .action((options: { readonly write?: string }) => runCommand((signal) => main(options.write, signal)));

async function main(file: string | undefined, signal: AbortSignal): Promise<void> {
  const cells: Cell[] = [];
  for (const fault of matrixFaults) {
    for (const when of moments) {
      if (signal.aborted) return;
      const { who, how, impossible } = fault;
      const why = impossible[when];
      const result = why === undefined ? await runCell(fault, when) : null;
      cells.push({ who, how, when, result, why });
      process.stdout.write(
        `${who}, ${how}, ${when}: ${result === null ? `impossible: ${why}` : wordsOf(result)}\n`,
      );
    }
  }
  if (file !== undefined) writeFileSync(file, documentOf(cells));
  const bad = cells.filter(({ result }) => result !== null && faultsOf(result).length > 0);
  process.stdout.write(`${cells.length} cells, ${bad.length} of them bad\n`);
  if (bad.length > 0) process.exitCode = 1;
}

function wordsOf(result: CellResult): string {
  const { answer, answered, recovered } = result;
  return [
    `${answer} after ${secondsOf(answered)}`,
    `one version after ${secondsOf(recovered)}`,
    ...faultsOf(result),
  ].join('; ');
}

/** What no cell may have. */
function faultsOf({ answered, recovered, lost, violations }: CellResult): string[] {
  return [
    ...(answered === null ? ['never answered'] : []),
    ...(recovered === null ? ['never one version again'] : []),
    ...(lost > 0 ? [`${lost} checkpoints lost`] : []),
    ...violations,
  ];
}

function secondsOf(milliseconds: number | null): string {
  return milliseconds === null ? 'never' : `${(milliseconds / 1_000).toFixed(1)} s`;
}

function documentOf(cells: readonly Cell[]): string {
  const rows = cells.flatMap(({ who, how, when, result }) =>
    result === null
      ? []
      : [
          `| ${who} | ${how} | ${when} | ${result.answer} | ${secondsOf(result.answered)} | ${secondsOf(result.recovered)} |`,
        ],
  );
  const reasons = new Map<string, string[]>();
  for (const { who, how, when, why } of cells)
    if (why !== undefined)
      reasons.set(`${who}, ${how}: ${why}`, [...(reasons.get(`${who}, ${how}: ${why}`) ?? []), when]);
  return `# What becomes of failures

Made by \`npm run test:faults -- --write docs/failures.md\`, on simulated clusters: the actors are the real ones, what is around
them is simulated, and seconds are virtual. They show which deadlines bound what, not how fast a machine is. Six ranks on three
hosts; two instances share the first host, one is on each of the others, and the last one joins. An update has 20 s. No cell
loses a registered checkpoint, violates an invariant, or leaves anything behind: the run fails otherwise.

- **answered**: from the fault until the request that was under way was answered; when idle, until a status was. \`PEER_LOST\`
  says to ask again.
- **one version**: from the fault until updates that are asked for again and again have brought all instances to one version.
  An engine that died or hangs is restarted when the request has been answered.

| who | how | when | answer | answered | one version |
| --- | --- | --- | --- | --- | --- |
${rows.join('\n')}

Impossible:

${[...reasons].map(([reason, when]) => `- ${when.join(', ')}: ${reason}`).join('\n')}

Not in this matrix: the owner, the disk, a full /dev/shm, stalled processes (SIGSTOP), and stops. Processes that are really
killed, stopped and cut off are in \`test/cluster\`.
`;
}

await program.parseAsync();
