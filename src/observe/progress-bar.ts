import type { WriteStream } from 'node:tty';
import type { Progress } from '../actors/protocol/status-values.ts';
import { formatBytes } from '../units.ts';

/** Width of the bar itself, in columns. */
const barWidth = 28;

/**
 * A progress bar on a terminal, redrawn in place. Writes nothing if the stream is not a terminal, so that logs stay
 * readable.
 */
export class ProgressBar {
  readonly #stream: WriteStream;
  readonly #label: string;
  #startedAt = performance.now();
  #drawn = false;

  constructor(label: string, stream: WriteStream = process.stderr) {
    this.#label = label;
    this.#stream = stream;
  }

  update(doneBytes: number, totalBytes: number): void {
    if (!this.#stream.isTTY || totalBytes <= 0) return;
    if (!this.#drawn) this.#startedAt = performance.now();
    this.#drawn = true;
    const part = Math.min(doneBytes / totalBytes, 1);
    const filled = Math.round(part * barWidth);
    const bar = '█'.repeat(filled) + '░'.repeat(barWidth - filled);
    const seconds = (performance.now() - this.#startedAt) / 1000;
    const rate = seconds > 0.05 ? `${formatBytes(doneBytes / seconds)}/s` : '';
    const text = `${this.#label.padEnd(16)} ${bar} ${String(Math.floor(part * 100)).padStart(3)} %  ${rate}`;
    // Truncated to the terminal's width, because a wrapped line cannot be redrawn.
    this.#stream.write(`\r\x1b[K${text.slice(0, Math.max(this.#stream.columns - 1, 1))}`);
  }

  /** Clears the line. */
  end(): void {
    if (this.#drawn) this.#stream.write('\r\x1b[K');
    this.#drawn = false;
  }
}

/**
 * Sums up the progress that ranks report, each its own bytes. `ranks`: how many will report as much each; until all have, the
 * total is of as many.
 */
export class ProgressSum {
  readonly #byRank = new Map<number, Progress>();
  readonly #ranks: number;

  constructor(ranks = 0) {
    this.#ranks = ranks;
  }

  add(progress: Progress): { doneBytes: number; totalBytes: number } {
    this.#byRank.set(progress.rank, progress);
    let doneBytes = 0;
    let totalBytes = 0;
    for (const one of this.#byRank.values()) {
      doneBytes += one.doneBytes;
      totalBytes += one.totalBytes;
    }
    const missing = Math.max(0, this.#ranks - this.#byRank.size);
    return { doneBytes, totalBytes: totalBytes + (missing * totalBytes) / this.#byRank.size };
  }
}
