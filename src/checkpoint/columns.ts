/** A view of the memory of a column. */
export function bytesOfColumn(column: ArrayBufferView): Uint8Array {
  return new Uint8Array(column.buffer, column.byteOffset, column.byteLength);
}
