#pragma once

#include <cstddef>
#include <cstdint>

namespace weightcast {

/// Rows of equal length at equal distances, as cudaMemcpy2D means them; a run of bytes is one row.
struct Rectangle {
  uint64_t offset;
  uint64_t row_bytes;
  uint64_t rows;
  /// Bytes from the start of a row to the start of the next; at least row_bytes where there is a second row.
  uint64_t pitch;

  uint64_t bytes() const { return row_bytes * rows; }
  /// Just past the last byte. Meaningful for a rectangle that passed CheckRectangle.
  uint64_t end() const { return bytes() == 0 ? offset : offset + (rows - 1) * pitch + row_bytes; }
  /// No gaps between the rows.
  bool IsRun() const { return rows <= 1 || pitch == row_bytes; }
};

/// Throws OUT_OF_RANGE unless the rectangle lies in `size` bytes and its rows do not overlap. `what` names the
/// memory in the message. Checked so that no later arithmetic on the rectangle can overflow.
void CheckRectangle(const Rectangle& rectangle, uint64_t size, const char* what, size_t number);

/// Calls visit(row, column, bytes) for the parts of rows that `bytes` bytes of a rectangle's content cover, counted
/// row by row from `offset`.
template <class Visit>
void ForEachRow(uint64_t row_bytes, uint64_t offset, uint64_t bytes, Visit visit) {
  uint64_t row = offset / row_bytes;
  uint64_t column = offset % row_bytes;
  while (bytes > 0) {
    const uint64_t part = bytes < row_bytes - column ? bytes : row_bytes - column;
    visit(row, column, part);
    bytes -= part;
    column = 0;
    row++;
  }
}

}  // namespace weightcast
