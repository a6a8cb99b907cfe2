#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/mapping.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// memcpy for weights: long copies go past the caches, which would only be emptied of what others use and would
/// read each destination line before it is overwritten. Source and destination do not overlap.
void StreamCopy(uint8_t* destination, const uint8_t* source, size_t bytes);

/// The same for one row of a copy that has `whole` bytes in all its rows. The caller calls StreamFence() after its
/// last row, on the same thread.
void StreamRow(uint8_t* destination, const uint8_t* source, size_t bytes, size_t whole);

/// Streamed stores are not ordered with the stores by which other threads learn that a copy is done; after this they
/// are.
void StreamFence();

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

struct RectangleCopy {
  uint64_t source_offset;
  uint64_t destination_offset;
  uint64_t row_bytes;
  uint64_t rows;
  uint64_t source_pitch;
  uint64_t destination_pitch;

  Rectangle Source() const { return {source_offset, row_bytes, rows, source_pitch}; }
  Rectangle Destination() const { return {destination_offset, row_bytes, rows, destination_pitch}; }
};

/// The copies, with rows that have no gaps on either side as one row. Throws OUT_OF_RANGE unless all lie in memory of
/// those sizes.
std::vector<RectangleCopy> CheckedCopies(std::vector<RectangleCopy> rectangles, uint64_t source_bytes,
                                         uint64_t destination_bytes);

/// Copies rectangles from one mapping into another. The caller makes sure that no destination byte is also a source
/// byte or the destination of another rectangle: which value it would get is not determined.
class CopyJob : public Job {
 public:
  /// Throws OUT_OF_RANGE or EACCES.
  CopyJob(std::shared_ptr<Mapping> source, std::shared_ptr<Mapping> destination, std::vector<RectangleCopy> rectangles,
          unsigned threads);

  size_t pieces() const override { return partition_.pieces(); }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

 private:
  const std::shared_ptr<Mapping> source_;
  const std::shared_ptr<Mapping> destination_;
  const std::vector<RectangleCopy> rectangles_;
  const Partition partition_;
  std::vector<Span> spans_;
};

/// Copies a buffer of this process into a mapping. The caller keeps `source` alive and unchanged until the job is
/// done or dropped.
class CopyInJob : public Job {
 public:
  /// Throws OUT_OF_RANGE or EACCES.
  CopyInJob(const uint8_t* source, uint64_t bytes, std::shared_ptr<Mapping> destination, uint64_t offset,
            unsigned threads);

  size_t pieces() const override { return partition_.pieces(); }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

 private:
  const uint8_t* const source_;
  const std::shared_ptr<Mapping> destination_;
  const uint64_t offset_;
  const Partition partition_;
  std::vector<Span> spans_;
};

}  // namespace weightcast
