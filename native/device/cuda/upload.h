#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device/cuda/handles.h"
#include "memory/copy.h"
#include "memory/mapping.h"

namespace weightcast::cuda {

/// What to copy out of one segment; offsets of the destination count from the start of the device memory.
struct SegmentCopies {
  std::shared_ptr<Mapping> segment;
  std::vector<RectangleCopy> rectangles;
};

/// Copies from the host to the device, as few and as long as they can be: rectangles without gaps become runs, and runs
/// that lie next to each other on both sides become one. None reaches from one part of a pinned mapping into the next.
class Upload {
 public:
  /// Throws OUT_OF_RANGE. No destination byte is in two rectangles.
  Upload(std::vector<SegmentCopies> segments, std::shared_ptr<const DeviceBlock> destination);

  uint64_t bytes() const { return bytes_; }
  /// In the context. From page-locked memory the GPU copies by itself; from other memory the driver's thread does.
  void Enqueue(Stream stream) const;

 private:
  void EnqueueRows(const uint8_t* source, const RectangleCopy& copy, Stream stream) const;

  std::vector<SegmentCopies> segments_;
  const std::shared_ptr<const DeviceBlock> destination_;
  size_t max_pitch_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace weightcast::cuda
