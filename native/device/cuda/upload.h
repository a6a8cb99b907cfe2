#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device/cuda/context.h"
#include "memory/copy.h"
#include "memory/mapping.h"
#include "memory/thread_pool.h"

namespace weightcast::cuda {

/// A mapping is page-locked in parts of so many bytes, counted from its start: several threads do that sooner than one.
/// The driver takes no copy that reaches from one part into the next.
inline constexpr uint64_t kPinnedPart = uint64_t{128} << 20;

/// Mappings that are page-locked, so that the GPU copies out of them directly. A pinned mapping stays mapped until it
/// is unpinned, also when its other users have released it.
///
/// Used on one thread; the work is done on others.
class PinnedMappings {
 public:
  PinnedMappings(std::shared_ptr<const PrimaryContext> context, unsigned threads);
  /// As Close() and Stop().
  ~PinnedMappings();
  PinnedMappings(const PinnedMappings&) = delete;
  PinnedMappings& operator=(const PinnedMappings&) = delete;

  /// Takes some 50 ms a GiB, and half of that where shared memory has huge pages. Does nothing to a mapping that is
  /// pinned. Throws CLOSED; fails with CUDA or DEVICE_LOST.
  void Pin(std::shared_ptr<Mapping> mapping, Done done);
  /// Does nothing to a mapping that is not pinned; one that is just being pinned is unpinned right after that. `done`
  /// may be called before this returns.
  void Unpin(const Mapping& mapping, Done done);
  /// How much is pinned now.
  uint64_t bytes() const;
  /// Unpins all, without waiting for it. May be called twice.
  void Close() noexcept;
  /// Waits for the threads; all is unpinned then. After Close().
  void Stop() noexcept { threads_.Stop(); }

 private:
  class PinnedMapping;
  class PinJob;
  class UnpinJob;
  /// Shared with the jobs.
  struct Table;

  void SubmitUnlock(std::shared_ptr<PinnedMapping> mapping, Done done);

  /// Null once closed.
  std::shared_ptr<const PrimaryContext> context_;
  const std::shared_ptr<Table> table_;
  ThreadPool threads_;
};

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
  /// In the context. From page-locked memory the GPU copies directly; from other memory the driver's thread does.
  void Enqueue(Stream stream) const;

 private:
  void EnqueueRows(const uint8_t* source, const RectangleCopy& copy, Stream stream) const;

  std::vector<SegmentCopies> segments_;
  const std::shared_ptr<const DeviceBlock> destination_;
  size_t max_pitch_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace weightcast::cuda
