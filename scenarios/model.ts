import type { CheckpointIndex } from '../src/checkpoint/source.ts';
import { ProgressBar } from '../src/observe/progress-bar.ts';
import { type ModelOptions, writeQwen3Model } from './qwen3-model.ts';

/** Writes a model with a progress bar; returns its directory. Rejects when the signal aborts. */
export async function makeModel(
  options: Omit<ModelOptions, 'onProgress'>,
  signal?: AbortSignal,
): Promise<string> {
  const bar = new ProgressBar('writing a model');
  try {
    await writeQwen3Model({
      ...options,
      onProgress: (done, total) => {
        signal?.throwIfAborted();
        bar.update(done, total);
      },
    });
    return options.directory;
  } finally {
    bar.end();
  }
}

/** Device memory that is ample for a worker that holds the whole model, and for the slots of an update. */
export function ampleMemory(index: CheckpointIndex): number {
  const total = index.bytes.reduce((sum, bytes) => sum + bytes, 0);
  const largest = index.bytes.reduce((most, bytes) => Math.max(most, bytes), 0);
  return 2 * total + 4 * largest + 2 ** 30;
}
