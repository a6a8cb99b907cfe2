import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { packageRoot } from '../src/package-root.ts';

/** One measured number and the bound that it must keep, if any. */
export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly atMost?: number;
  readonly atLeast?: number;
}

export interface Report {
  /** Base name of the files in bench/results/. */
  readonly name: string;
  readonly title: string;
  /** The command that repeats the measurement. */
  readonly command: string;
  /** How it was measured: what is included, how often, which statistic. */
  readonly method: string;
  readonly figures: readonly Figure[];
  /** GPUs and libraries that the figures depend on, with versions. */
  readonly environment?: readonly string[];
  /** Markdown after the figures. */
  readonly appendix?: string;
}

/**
 * Prints the figures, writes bench/results/<name>.json and .md, and sets exit code 1 if a figure misses its bound.
 */
export function writeReport(report: Report): void {
  const { appendix: _, ...facts } = report;
  const measured = { ...circumstances(), ...facts };
  const directory = new URL('bench/results/', packageRoot);
  mkdirSync(directory, { recursive: true });
  writeFileSync(new URL(`${report.name}.json`, directory), `${JSON.stringify(measured, null, 2)}\n`);
  writeFileSync(new URL(`${report.name}.md`, directory), markdown(report, measured));
  process.stdout.write(`${table(report.figures)}\n`);
  if (!report.figures.every(keepsBound)) process.exitCode = 1;
}

/** When, where and on which commit something is measured now. */
export function circumstances() {
  const processors = cpus();
  return {
    date: new Date().toISOString(),
    machine: {
      processor: processors[0]?.model.trim() ?? 'unknown',
      cores: processors.length,
      memoryGiB: Number((totalmem() / 2 ** 30).toFixed(1)),
      kernel: release(),
    },
    node: process.version,
    commit: commit(),
  };
}

/** The measured commit, marked if the tree had changes; `none` outside a repository with commits. */
function commit(): string {
  const git = (...words: string[]) =>
    execFileSync('git', words, {
      cwd: packageRoot,
      encoding: 'utf8',
      stdio: 'pipe',
    }).trim();
  // Where only the tree was copied to.
  const given = process.env.WEIGHTCAST_COMMIT;
  if (given !== undefined) return given;
  try {
    const hash = git('rev-parse', '--short=12', 'HEAD');
    // Results of earlier benchmarks are no change of what is measured.
    return git('status', '--porcelain', '--', '.', ':!bench/results') === '' ? hash : `${hash} with changes`;
  } catch {
    return 'none';
  }
}

function keepsBound({ value, atMost, atLeast }: Figure): boolean {
  return (atMost === undefined || value <= atMost) && (atLeast === undefined || value >= atLeast);
}

function boundText(figure: Figure): string {
  const { atMost, atLeast } = figure;
  if (atMost === undefined && atLeast === undefined) return '';
  const bound = atMost !== undefined ? `≤ ${atMost}` : `≥ ${atLeast}`;
  return keepsBound(figure) ? bound : `${bound} MISSED`;
}

/** Four significant digits; whole numbers in full. */
function valueText(value: number): string {
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

function rowsOf(figures: readonly Figure[]): string[][] {
  return figures.map((figure) => [figure.name, valueText(figure.value), figure.unit, boundText(figure)]);
}

function table(figures: readonly Figure[]): string {
  const rows = rowsOf(figures);
  const widths = [0, 1, 2, 3].map((column) => Math.max(0, ...rows.map((row) => row[column]!.length)));
  return rows
    .map(([name, value, unit, bound]) =>
      `${name!.padEnd(widths[0]!)}  ${value!.padStart(widths[1]!)} ${unit!.padEnd(widths[2]!)}  ${bound}`.trimEnd(),
    )
    .join('\n');
}

/** How and where something was measured, as lines of Markdown. */
export function heading(
  { title, method, command, environment }: Pick<Report, 'title' | 'method' | 'command' | 'environment'>,
  { date, machine, node, commit }: ReturnType<typeof circumstances>,
): string[] {
  return [
    `# ${title}`,
    '',
    method,
    '',
    `- command: \`${command}\``,
    `- date: ${date}`,
    `- machine: ${machine.processor}, ${machine.cores} cores, ${machine.memoryGiB} GiB, Linux ${machine.kernel}`,
    ...(environment ?? []).map((line) => `- ${line}`),
    `- node: ${node}`,
    `- commit: ${commit}`,
    '',
  ];
}

function markdown(report: Report, measured: ReturnType<typeof circumstances>): string {
  return [
    ...heading(report, measured),
    '| figure | value | unit | bound |',
    '|---|---:|---|---|',
    ...rowsOf(report.figures).map((row) => `| ${row.join(' | ')} |`),
    '',
    ...(report.appendix ? [report.appendix, ''] : []),
  ].join('\n');
}
