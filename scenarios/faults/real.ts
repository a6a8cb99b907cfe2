import { SeededRandom } from '../../simulation/random.ts';
import { describe } from '../../src/errors.ts';
import { whyNoNamespaces } from '../host-network.ts';
import type { RealResult } from './cell.ts';
import { silenceSeconds } from './fleet.ts';
import { KeptCells } from './kept-cells.ts';
import { type RealCell, RealMatrix, realCells } from './matrix.ts';
import { stepMilliseconds } from './moments.ts';
import { secondsOf } from './simulated.ts';

export interface RealOutcome extends RealCell {
  /** Null if it is impossible, or could not be brought about. */
  readonly result: RealResult | null;
  readonly problems: readonly string[];
  readonly limits: Limits;
  /** What an update took in its run when nothing happened, in milliseconds. */
  readonly usual: number;
}

/** Milliseconds; null where no limit is set. */
export interface Limits {
  readonly detected: number | null;
  readonly answered: number | null;
}

export interface RealOptions {
  /** How many of the possible cells to run, at random; null: all. */
  readonly sample: number | null;
  readonly seed: number;
  /** What the names of cells to run match: `rank that feeds, SIGKILL, streaming`. */
  readonly only: RegExp;
  readonly kept: KeptCells;
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

const inUpdate = ['preparing', 'opening', 'pausing', 'streaming', 'finishing', 'resuming', 'joining'];
/** A stop and a start may take what they are allowed. */
const withTimesOfTheirOwn = ['start', 'stopping', 'join: start'];

export async function runReal({
  sample,
  seed,
  only,
  kept,
  signal,
  say,
}: RealOptions): Promise<RealOutcome[]> {
  const all = realCells(whyNoNamespaces()).filter((cell) => only.test(nameOf(cell)));
  const chosen = sample === null ? all : chosenOf(all, sample, seed);
  const matrix = new RealMatrix();
  const cells: RealOutcome[] = [];
  signal.addEventListener('abort', () => void matrix.end());
  try {
    for (const cell of chosen) {
      if (signal.aborted) break;
      const outcome = await runOne(matrix, cell, kept);
      cells.push(outcome);
      say(`${nameOf(cell)}: ${wordsOf(outcome)}`);
    }
  } finally {
    await matrix.end();
  }
  return cells;
}

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
  kept: KeptCells = new KeptCells(null),
): Promise<RealOutcome> {
  const none = { detected: null, answered: null };
  if (cell.why !== undefined) return { ...cell, result: null, problems: [], limits: none, usual: 0 };
  try {
    const before = kept.get(nameOf(cell));
    const result = before?.result ?? (await matrix.run(cell));
    const usual = before?.usual ?? matrix.usual;
    const problems = problemsOf(cell, result);
    if (before === null && problems.length === 0) kept.keep(nameOf(cell), { result, usual });
    return { ...cell, result, problems, limits: limitsOf(cell, usual), usual };
  } catch (error) {
    return { ...cell, result: null, problems: [describe(error)], limits: none, usual: 0 };
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
  if (withTimesOfTheirOwn.includes(when)) return { detected: null, answered: null };
  switch (fault.limit) {
    case 'death':
      return { detected: 200, answered: inUpdate.includes(when) ? 2 * usual + 2_000 : 1_000 };
    case 'silence':
      return { detected: silence, answered: inUpdate.includes(when) ? silence + 2 * usual + 2_000 : silence };
    case 'engine':
      return { detected: null, answered: inUpdate.includes(when) ? stepMilliseconds + 1_000 : null };
    case 'none':
      return { detected: null, answered: null };
  }
}

export function nameOf({ fault, when }: RealCell): string {
  return `${fault.who}, ${fault.how}, ${when}`;
}

export function wordsOf({ why, result, problems }: RealOutcome): string {
  if (why !== undefined) return `impossible: ${why}`;
  if (result === null) return `FAILED: ${problems.join('; ')}`;
  const { detected, answer, answered, recovered, message } = result;
  return [
    detected === null ? 'nothing to detect' : `detected after ${secondsOf(detected, 2)}`,
    `${answer} after ${secondsOf(answered, 2)}`,
    `one version after ${secondsOf(recovered, 2)}`,
    ...(message === null ? [] : [`says: ${message}`]),
    ...problems.map((problem) => `BAD: ${problem}`),
  ].join('; ');
}
