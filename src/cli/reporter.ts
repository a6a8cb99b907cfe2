import type { Progress } from '../actors/protocol/status-values.ts';
import type { InstanceReport } from '../actors/protocol/update-values.ts';
import { rankName } from '../checkpoint/rank-name.ts';
import { ProgressBar, ProgressSum } from '../observe/progress-bar.ts';
import { draftText, type Summary } from '../observe/summary.ts';
import { formatBytes } from '../units.ts';

const labels = { load: 'loading', receive: 'receiving', update: 'updating' } as const;

/** Prints the progress of a command and its result. */
export class Reporter {
  #isComplete = false;
  readonly #ranks: number;
  #current: { activity: Progress['activity']; bar: ProgressBar; sum: ProgressSum } | null = null;

  /** `ranks`: how many are updated, where each of them reports for itself. */
  constructor(ranks = 0) {
    this.#ranks = ranks;
  }

  progress(progress: Progress): void {
    // One bar at a time: some ranks still receive while others update already.
    if (progress.activity === 'update' && this.#current?.activity === 'receive' && !this.#isComplete) return;
    if (this.#current?.activity !== progress.activity) {
      this.end();
      const { activity } = progress;
      const ranks = activity === 'update' ? this.#ranks : 0;
      this.#current = { activity, bar: new ProgressBar(labels[activity]), sum: new ProgressSum(ranks) };
    }
    const { doneBytes, totalBytes } = this.#current!.sum.add(progress);
    this.#isComplete = doneBytes >= totalBytes;
    this.#current!.bar.update(doneBytes, totalBytes);
  }

  /** Ends the bar that is drawn. */
  end(): void {
    this.#current?.bar.end();
    this.#current = null;
  }

  table(summary: Summary): void {
    this.rows([
      ['version', summary.version],
      ['mode', modeText(summary)],
      ['ranks', String(summary.ranks)],
      ['tensors', `${summary.tensors} in ${summary.buckets} buckets`],
      ['size', formatBytes(summary.bytes)],
      ...(summary.receivedBytes > 0 ? [['received', receivedText(summary)] as const] : []),
      ['time', timeText(summary)],
      ['stages', stagesText(summary)],
      ['overlap', `two or more stages busy ${Math.round(summary.overlap * 100)} % of the time`],
      ...summary.instances.map((one) => [one.name, instanceText(one)] as const),
    ]);
  }

  rows(rows: readonly (readonly [label: string, value: string])[]): void {
    const width = Math.max(...rows.map(([label]) => label.length));
    for (const [label, value] of rows) process.stdout.write(`${label.padEnd(width)}  ${value}\n`);
  }
}

function timeText({ seconds, gbps, instances }: Summary): string {
  const isWhole = instances.every(({ fed }) => fed !== 'parts');
  return `${seconds.toFixed(2)} s; ${gbps.toFixed(2)} GB/s ${isWhole ? 'to each rank' : 'of the checkpoint'} while streaming`;
}

function modeText({ mode, serialFrom }: Summary): string {
  if (serialFrom.length === 0) return mode;
  const first = serialFrom.reduce((one, other) => (other.bucket < one.bucket ? other : one));
  const others = serialFrom.length === 1 ? '' : ` and ${serialFrom.length - 1} more`;
  return `${mode}, serial from bucket ${first.bucket} on (${rankName(first.rank)}${others}: device memory ran short)`;
}

function receivedText({ receivedBytes, overTcp }: Summary): string {
  const all = `${formatBytes(receivedBytes)} from other hosts`;
  if (overTcp === null) return all;
  const part = overTcp.bytes === receivedBytes ? '' : `${formatBytes(overTcp.bytes)} of it `;
  const reason = overTcp.why === null ? '' : `: ${rankName(overTcp.from)}: ${overTcp.why}`;
  return `${all}, ${part}over TCP${reason}`;
}

function stagesText({ stages }: Summary): string {
  return (['h2d', 'broadcast', 'reload'] as const)
    .map((stage) => `${stage} ${stages[stage].toFixed(2)} s`)
    .join(', ');
}

const proofNames = ['arrived', 'installed', 'answering'] as const;

/** An instance's outcome and its proofs, in one line. */
function instanceText({ outcome, paused, proofs, caches, fed, draftKept, error }: InstanceReport): string {
  const asked = proofNames.filter((proof) => proofs[proof] !== 'not asked');
  const proved = asked.map((proof) => `${proof} ${proofs[proof]}`).join(', ') || 'no proof asked for';
  const parts = [
    paused ? `${outcome}, paused` : outcome,
    outcome === 'updated' ? proved : null,
    caches === 'kept' ? 'it may answer from caches that the old weights computed' : null,
    fed === 'parts' ? 'each rank got only the parts that it keeps' : null,
    draftKept && draftText(draftKept),
    error?.message,
  ];
  return parts.filter((part) => part).join('; ');
}
