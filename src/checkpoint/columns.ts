import { ProtocolError } from '../errors.ts';

/** A view of the memory of a column. */
export function bytesOfColumn(column: ArrayBufferView): Uint8Array {
  return new Uint8Array(column.buffer, column.byteOffset, column.byteLength);
}

/**
 * The column of which {@link bytesOfColumn} has the bytes, in memory of its own: inside a message the bytes need not be
 * aligned, and a view would keep the whole message in memory.
 * Throws a `ProtocolError`; `what` is what the column is of.
 */
export function columnOfBytes<T>(
  what: string,
  type: { new (buffer: ArrayBuffer): T; readonly BYTES_PER_ELEMENT: number },
  bytes: Uint8Array,
): T {
  if (bytes.byteLength % type.BYTES_PER_ELEMENT !== 0)
    throw new ProtocolError(`not a ${what}: a column ends within a number`);
  return new type(Uint8Array.from(bytes).buffer);
}
