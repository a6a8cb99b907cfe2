import { SeededRandom } from '../../simulation/random.ts';
import { describe } from '../../src/errors.ts';
import { whyNoNamespaces } from '../host-network.ts';
import type { RealResult } from './cell.ts';
import { silenceSeconds } from './fleet.ts';
import { HarnessError } from './harness-error.ts';
import { type RealCell, RealMatrix, realCells } from './matrix.ts';
import { circumstances, type MeasuredCell, MeasuredCells } from './measured-cells.ts';
import { stepMilliseconds } from './moments.ts';
import { secondsOf } from './simulated.ts';

export interface RealOutcome extends RealCell {
  /** Null if it is impossible, or could not be brought about. */
  readonly result: RealResult | null;
  readonly problems: readonly string[];
  /** It was not run: what was to come before the fault went wrong. */
  readonly isUntried: boolean;
  readonly limits: Limits;
  /** What an update took in its run when nothing happened, in milliseconds. */
  readonly usual: number;
  /** When it was run, and at which load; null if it was not. */
  readonly date: string | null;
  readonly load: number | null;
}

/** Milliseconds; null where no limit is set. */
export interface Limits {
  readonly detected: number | null;
  readonly answered: number | null;
  readonly back: number | null;
}

export interface RealOptions {
  /** How many of the possible cells to run, at random; null: all. */
  readonly sample: number | null;
  readonly seed: number;
  /** What the names of cells to run match: `rank that feeds, SIGKILL, streaming`. */
  readonly only: RegExp;
  /** What is known of cells that are not run, and where results go. */
  readonly measured: MeasuredCells;
  /** What was measured since then is not run again; null: all that was chosen is. */
  readonly since: Date | null;
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

const inUpdate = ['preparing', 'opening', 'pausing', 'streaming', 'finishing', 'resuming', 'joining'];
/** From its death until another process is ready in the victim's place: a rank lends its segments then. */
const backWithin = { supervisor: 3_000, feeds: 2_000, receives: 2_000 } as const;
/** A stop and a start may take what they are allowed. */
const withTimesOfTheirOwn = ['start', 'stopping', 'join: start'];

export async function runReal({
  sample,
  seed,
  only,
  measured,
  since,
  signal,
  say,
}: RealOptions): Promise<RealOutcome[]> {
  const all = realCells(whyNoNamespaces());
  const wanted = all.filter((cell) => only.test(nameOf(cell)) && !isFresh(measured.get(nameOf(cell)), since));
  const chosen = new Set(sample === null ? wanted : chosenOf(wanted, sample, seed));
  const matrix = new RealMatrix();
  const cells: RealOutcome[] = [];
  let done = 0;
  signal.addEventListener('abort', () => void matrix.end());
  try {
    for (const cell of all) {
      if (signal.aborted) break;
      if (!chosen.has(cell)) {
        cells.push(...known(cell, measured));
        continue;
      }
      const outcome = await runOne(matrix, cell, measured);
      cells.push(outcome);
      done += 1;
      say(`${done} of ${chosen.size}: ${nameOf(cell)}: ${wordsOf(outcome)}`);
    }
  } finally {
    await matrix.end();
  }
  return cells;
}

function isFresh(cell: MeasuredCell | null, since: Date | null): boolean {
  return cell !== null && since !== null && new Date(cell.date) >= since;
}

/** What there is of a cell that is not run. */
export function known(cell: RealCell, measured: MeasuredCells): RealOutcome[] {
  if (cell.why !== undefined) return [{ ...cell, ...nothing }];
  const before = measured.get(nameOf(cell));
  if (before === null) return [];
  return [
    {
      ...cell,
      ...before,
      problems: problemsOf(cell, before.result),
      isUntried: false,
      limits: limitsOf(cell, before.usual),
    },
  ];
}

const nothing = {
  result: null,
  problems: [],
  isUntried: false,
  limits: { detected: null, answered: null, back: null },
  usual: 0,
  date: null,
  load: null,
} satisfies Omit<RealOutcome, keyof RealCell>;

function chosenOf(all: readonly RealCell[], count: number, seed: number): RealCell[] {
  const possible = all.filter(({ why }) => why === undefined);
  const random = new SeededRandom(seed);
  while (possible.length > count) possible.splice(Math.floor(random.next() * possible.length), 1);
  return possible;
}

/** Runs one cell, and says what was wrong with it. */
export async function runOne(
  matrix: RealMatrix,
  cell: RealCell,
  measured: MeasuredCells = new MeasuredCells(null),
): Promise<RealOutcome> {
  if (cell.why !== undefined) return { ...cell, ...nothing };
  const now = circumstances();
  try {
    const result = await matrix.run(cell);
    const { usual } = matrix;
    const problems = problemsOf(cell, result);
    if (problems.length === 0) measured.put(nameOf(cell), { result, usual, ...now });
    return { ...cell, ...now, result, problems, isUntried: false, limits: limitsOf(cell, usual), usual };
  } catch (error) {
    return { ...cell, ...nothing, problems: [describe(error)], isUntried: error instanceof HarnessError };
  }
}

/** What no cell may have. Times are shown, not judged: machines differ. */
function problemsOf({ fault, when }: RealCell, result: RealResult): string[] {
  const { answered, recovered, lostBytes, violations } = result;
  return [
    ...(answered === null ? ['never answered'] : []),
    ...(recovered === null ? ['never one version again'] : []),
    // What an owner registered ends with it, which its successor registers again.
    ...(lostBytes > 0 && fault.victim !== 'owner' && when !== 'start' && when !== 'stopping'
      ? [`${lostBytes} bytes lost`]
      : []),
    ...violations,
  ];
}

/** The limits that issue 12 sets, with the deadlines that these runs configure. */
function limitsOf({ fault, when }: RealCell, usual: number): Limits {
  const silence = 1_000 * (silenceSeconds + 1);
  if (withTimesOfTheirOwn.includes(when)) return nothing.limits;
  const isInUpdate = inUpdate.includes(when);
  const back = backWithin[fault.victim as keyof typeof backWithin] ?? null;
  switch (fault.limit) {
    case 'death':
      return { detected: 200, answered: isInUpdate ? 2 * usual + 2_000 : 1_000, back };
    case 'silence':
      return {
        detected: silence,
        answered: isInUpdate ? silence + 2 * usual + 2_000 : silence,
        back: back && silence + back,
      };
    case 'unseen':
      return { detected: null, answered: isInUpdate ? 2 * usual + 2_000 : 1_000, back: null };
    case 'busy':
      return { detected: null, answered: silence + (isInUpdate ? 2 * usual + 2_000 : 1_000), back: null };
    case 'engine':
      return { detected: null, answered: isInUpdate ? stepMilliseconds + 1_000 : null, back: null };
    case 'none':
      return nothing.limits;
  }
}

export function nameOf({ fault, when }: RealCell): string {
  return `${fault.who}, ${fault.how}, ${when}`;
}

export function wordsOf({ why, result, problems, isUntried }: RealOutcome): string {
  if (why !== undefined) return `impossible: ${why}`;
  if (isUntried) return `NOT RUN, as the harness failed before the fault: ${problems.join('; ')}`;
  if (result === null) return `FAILED: ${problems.join('; ')}`;
  const { detected, answer, answered, back = null, recovered, message } = result;
  return [
    detected === null ? 'nothing to detect' : `detected after ${secondsOf(detected, 2)}`,
    `${answer} after ${secondsOf(answered, 2)}`,
    ...(back === null ? [] : [`back after ${secondsOf(back, 2)}`]),
    `one version after ${secondsOf(recovered, 2)}`,
    ...(message === null ? [] : [`says: ${message}`]),
    ...problems.map((problem) => `BAD: ${problem}`),
  ].join('; ');
}
