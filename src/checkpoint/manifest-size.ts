import { CheckpointError } from '../errors.ts';
import { quoted } from './printable.ts';

/** What a manifest may have at most, so that it, eight bytes a tensor and all of its names each fit one message. */
export const MOST_TENSORS = 2_000_000;
export const MOST_NAME_CHARACTERS = 2 ** 28;

/** Throws a `CheckpointError` for more tensors, or longer names, than can be planned and sent. */
export function checkManifestSize(checkpoint: string, names: readonly string[]): void {
  checkTensorCount(checkpoint, names.length);
  const characters = names.reduce((sum, name) => sum + name.length, 0);
  if (characters <= MOST_NAME_CHARACTERS) return;
  throw new CheckpointError(
    `checkpoint ${quoted(checkpoint)}: the names of its tensors have ${characters} characters together; at most ${MOST_NAME_CHARACTERS} can be registered`,
  );
}

export function checkTensorCount(checkpoint: string, tensors: number): void {
  if (tensors <= MOST_TENSORS) return;
  throw new CheckpointError(
    `checkpoint ${quoted(checkpoint)} has ${tensors} tensors; at most ${MOST_TENSORS} can be registered`,
  );
}
