import assert from 'node:assert/strict';
import { CheckpointError } from '../errors.ts';
import { bytesOf, DTYPES, dtypeIndex } from './dtype.ts';
import { quoted } from './printable.ts';

/** A tensor to be written. */
export interface TensorDescription {
  readonly name: string;
  /** As the format names it, for example `BF16`. */
  readonly dtype: string;
  readonly shape: readonly number[];
}

export interface EncodedHeader {
  /** All that comes before the data, a multiple of eight bytes. */
  readonly header: Uint8Array;
  /** Where the data of `tensors[i]` belongs, from the start of the file. */
  readonly offsets: Float64Array;
  /** Of the whole file. */
  readonly totalBytes: number;
}

/**
 * Lays out a safetensors file as the reference writer does: tensors by falling alignment of their dtype, then by
 * name, and the header padded to eight bytes, so that each tensor lies aligned to its elements.
 * Throws a CheckpointError for an unknown dtype, a shape without a size, or a name given twice.
 */
export function encodeHeader(
  tensors: readonly TensorDescription[],
  metadata?: ReadonlyMap<string, string>,
): EncodedHeader {
  const ordered = tensors.map((tensor, index) => ({ ...describe(tensor), index }));
  ordered.sort((a, b) => b.dtype - a.dtype || (a.name < b.name ? -1 : 1));
  const dataOffsets = new Float64Array(tensors.length);
  const fields: string[] = [];
  if (metadata !== undefined) fields.push(`"__metadata__":${JSON.stringify(Object.fromEntries(metadata))}`);
  const names = new Set<string>();
  let end = 0;
  for (const { name, dtype, shape, bytes, index } of ordered) {
    if (names.has(name)) throw new CheckpointError(`tensor ${quoted(name)} is given twice`);
    names.add(name);
    dataOffsets[index] = end;
    const info = { dtype: DTYPES[dtype]!.name, shape, data_offsets: [end, end + bytes] };
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(info)}`);
    end += bytes;
    assert.ok(Number.isSafeInteger(end), 'a file holds less than 2^53 bytes');
  }
  const header = withLength(`{${fields.join(',')}}`);
  return {
    header,
    offsets: dataOffsets.map((offset) => header.length + offset),
    totalBytes: header.length + end,
  };
}

function describe({ name, dtype: dtypeName, shape }: TensorDescription) {
  const dtype = dtypeIndex(dtypeName);
  if (name === '__metadata__') throw new CheckpointError('no tensor can have the name "__metadata__"');
  if (dtype < 0)
    throw new CheckpointError(`tensor ${quoted(name)} has the unknown dtype ${quoted(dtypeName)}`);
  return { name, dtype, shape, bytes: bytesOf(DTYPES[dtype]!, shape) };
}

/** The JSON in front of which its length stands, padded with spaces to a multiple of eight. */
function withLength(json: string): Uint8Array {
  const text = new TextEncoder().encode(json);
  const length = Math.ceil(text.length / 8) * 8;
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(text, 8);
  return header;
}
