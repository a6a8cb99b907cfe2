/** The rows of the rectangles of a `Transfer`, in bytes: where each lies in the segment and in the buffer. */
export function rowsOf(
  rectangles: Float64Array,
): { readonly from: number; readonly to: number; readonly bytes: number }[] {
  const rows = [];
  for (let at = 0; at < rectangles.length; at += 6) {
    const [from, to, bytes, count, fromPitch, toPitch] = rectangles.subarray(at, at + 6);
    for (let row = 0; row < count!; row += 1)
      rows.push({ from: from! + row * fromPitch!, to: to! + row * toPitch!, bytes: bytes! });
  }
  return rows;
}
