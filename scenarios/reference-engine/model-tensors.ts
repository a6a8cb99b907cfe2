import { DTYPES } from '../../src/checkpoint/dtype.ts';
import {
  type EncodedHeader,
  encodeHeader,
  type TensorDescription,
} from '../../src/checkpoint/safetensors-writer.ts';
import type { CheckpointIndex } from '../../src/checkpoint/source.ts';

/** The tensors of a model, in the order of its checkpoint. */
export function describeTensors(index: CheckpointIndex): TensorDescription[] {
  const { names, dtypes, dimensions, shapeStarts } = index;
  return names.map((name, row) => ({
    name,
    dtype: DTYPES[dtypes[row]!]!.name,
    shape: [...dimensions.subarray(shapeStarts[row]!, shapeStarts[row + 1]!)],
  }));
}

/**
 * The layout of the file into which a model is dumped. The server and the workers compute it independently from the
 * headers of the same checkpoint: the server writes the header, each worker its parts.
 */
export function layOutDump(index: CheckpointIndex): EncodedHeader {
  return encodeHeader(describeTensors(index), new Map([['format', 'pt']]));
}
