#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "memory/mapping.h"
#include "memory/partition.h"
#include "memory/rectangle.h"
#include "memory/thread_pool.h"

namespace weightcast {

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

/// Copies rectangles from one mapping into another. The caller sees to it that no destination byte is also a source
/// byte or the destination of another rectangle: which value it would get is not determined.
class CopyJob : public Job {
 public:
  /// Throws OUT_OF_RANGE or EACCES.
  CopyJob(std::shared_ptr<Mapping> source, std::shared_ptr<Mapping> destination,
          std::vector<RectangleCopy> rectangles, unsigned threads);

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
