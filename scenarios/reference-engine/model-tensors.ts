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
 * The file that a model is dumped into. Server and workers each work it out from the headers of the same checkpoint:
 * the server writes the header, every worker its parts.
 */
export function layOutDump(index: CheckpointIndex): EncodedHeader {
  return encodeHeader(describeTensors(index), new Map([['format', 'pt']]));
}
