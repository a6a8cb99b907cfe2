import { stat } from 'node:fs/promises';
import { describe } from '../errors.ts';
import { mapBounded } from './bounded-concurrency.ts';
import { decodeIdentity, identityOf, isUntouched } from './file-identity.ts';
import { escapeControls } from './printable.ts';
import { asCheckpointError, readIdentity } from './safetensors.ts';
import type { ExaminedFile } from './segment-store.ts';

/** Enough to hide the latency of a network file system. */
const parallelExaminations = 16;

/** As `SegmentStore.examine`. */
export function examineFiles(
  files: readonly { readonly path: string; readonly known: string }[],
): Promise<ExaminedFile[]> {
  return mapBounded(files, parallelExaminations, async ({ path, known }) => {
    try {
      const stats = await stat(path, { bigint: true });
      const isKnown = isUntouched(identityOf(stats, ''), decodeIdentity(known));
      return { identity: isKnown ? known : await readIdentity(path), problem: null };
    } catch (error) {
      return { identity: null, problem: describe(asCheckpointError(error, escapeControls(path))) };
    }
  });
}
