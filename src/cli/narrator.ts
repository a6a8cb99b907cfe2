import type { Progress } from '../actors/protocol/status-values.ts';
import { ProgressBar, ProgressSum } from '../observe/progress-bar.ts';
import { formatBytes } from '../observe/units.ts';
import type { Summary } from './summary.ts';

const labels = { load: 'loading', receive: 'receiving', update: 'updating' } as const;

/** What a command says while it works and when it is done. */
export class Narrator {
  #isComplete = false;
  #current: { activity: Progress['activity']; bar: ProgressBar; sum: ProgressSum } | null = null;

  progress(progress: Progress): void {
    // Some ranks may still receive while others are past it.
    if (progress.activity === 'update' && this.#current?.activity === 'receive' && !this.#isComplete) return;
    if (this.#current?.activity !== progress.activity) {
      this.end();
      const { activity } = progress;
      this.#current = { activity, bar: new ProgressBar(labels[activity]), sum: new ProgressSum() };
    }
    const { doneBytes, totalBytes } = this.#current!.sum.add(progress);
    this.#isComplete = doneBytes >= totalBytes;
    this.#current!.bar.update(doneBytes, totalBytes);
  }

  /** Ends the bar that is being drawn. */
  end(): void {
    this.#current?.bar.end();
    this.#current = null;
  }

  table(summary: Summary): void {
    this.rows([
      ['version', summary.version],
      ['mode', summary.mode],
      ['ranks', String(summary.ranks)],
      ['tensors', `${summary.tensors} in ${summary.buckets} buckets`],
      ['size', formatBytes(summary.bytes)],
      ...(summary.receivedBytes > 0
        ? [['received', `${formatBytes(summary.receivedBytes)} from other hosts`] as const]
        : []),
      ['time', `${summary.seconds.toFixed(2)} s, streaming at ${summary.gbps.toFixed(2)} GB/s to each rank`],
      ['stages', stagesText(summary)],
      ['overlap', `${Math.round(summary.overlap * 100)} % of the time two stages or more were at work`],
      ['verified', verifiedText(summary.verified)],
    ]);
  }

  rows(rows: readonly (readonly [label: string, value: string])[]): void {
    const width = Math.max(...rows.map(([label]) => label.length));
    for (const [label, value] of rows) process.stdout.write(`${label.padEnd(width)}  ${value}\n`);
  }
}

function stagesText({ stages }: Summary): string {
  return (['h2d', 'broadcast', 'reload'] as const)
    .map((stage) => `${stage} ${stages[stage].toFixed(2)} s`)
    .join(', ');
}

function verifiedText(verified: boolean | null): string {
  if (verified === null) return 'not asked, or the engine cannot say';
  return verified ? 'every worker holds the checkpoint, by digest' : 'NO';
}
