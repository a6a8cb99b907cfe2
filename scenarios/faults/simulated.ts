import { type CellResult, type Moment, moments, runCell } from '../../simulation/fault-matrix.ts';
import { matrixFaults } from '../../simulation/matrix-faults.ts';

export interface SimulatedCell {
  readonly who: string;
  readonly how: string;
  readonly when: Moment;
  /** Null if the cell is impossible. */
  readonly result: CellResult | null;
  readonly why: string | undefined;
}

/** Every simulated fault at every moment; ends early when the signal aborts. */
export async function runSimulated(
  signal: AbortSignal,
  say: (line: string) => void,
): Promise<SimulatedCell[]> {
  const cells: SimulatedCell[] = [];
  for (const fault of matrixFaults) {
    for (const when of moments) {
      if (signal.aborted) return cells;
      const { who, how, impossible } = fault;
      const why = impossible[when];
      const result = why === undefined ? await runCell(fault, when) : null;
      cells.push({ who, how, when, result, why });
      say(`${who}, ${how}, ${when}: ${result === null ? `impossible: ${why}` : wordsOf(result)}`);
    }
  }
  return cells;
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
export function faultsOf({ answered, recovered, lost, violations }: CellResult): string[] {
  return [
    ...(answered === null ? ['never answered'] : []),
    ...(recovered === null ? ['never one version again'] : []),
    ...(lost > 0 ? [`${lost} checkpoints lost`] : []),
    ...violations,
  ];
}

export function secondsOf(milliseconds: number | null, digits = 1): string {
  return milliseconds === null ? 'never' : `${(milliseconds / 1_000).toFixed(digits)} s`;
}
