import { ProtocolError } from '../errors.ts';
import { bytesOfColumn, columnOfBytes } from './columns.ts';
import type { Cuts } from './cuts.ts';
import { packDocument, unpackDocument } from './document-codec.ts';

const entryBytes = Uint8Array.BYTES_PER_ELEMENT + 2 * Uint32Array.BYTES_PER_ELEMENT;

/** A hundredth of their bytes: what one worker keeps of the tensors of a model is the same for most of them. */
export function packCuts({ dims, starts, lengths }: Cuts): Uint8Array {
  return packDocument(Buffer.concat([dims, starts, lengths].map(bytesOfColumn)));
}

/** Throws a `ProtocolError`. */
export function unpackCuts(packed: Uint8Array): Cuts {
  const bytes = unpackDocument(packed);
  const entries = bytes.byteLength / entryBytes;
  if (!Number.isInteger(entries))
    throw new ProtocolError(`${bytes.byteLength} bytes are no parts of tensors`);
  const what = 'list of parts';
  const column = (from: number, to: number) => bytes.subarray(entries * from, entries * to);
  return {
    dims: columnOfBytes(what, Uint8Array, column(0, 1)),
    starts: columnOfBytes(what, Uint32Array, column(1, 5)),
    lengths: columnOfBytes(what, Uint32Array, column(5, 9)),
  };
}
