#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device/cuda/stream_worker.h"
#include "memory/digest.h"

namespace weightcast::cuda {

/// Digests of what lies on the GPU, computed there at the speed of its memory. The kernel and 2 MiB of device memory
/// are taken on first use and kept.
///
/// Used on one thread.
class GpuDigest {
 public:
  /// One digest for each part, valid once `done` was called without a failure.
  using Digests = std::shared_ptr<std::vector<uint64_t>>;

  GpuDigest(std::shared_ptr<const PrimaryContext> context, double stall_milliseconds);

  /// Throws OUT_OF_RANGE, and what StreamWorker::Submit throws.
  Digests Submit(std::shared_ptr<const DeviceBlock> block, std::vector<TensorPart> parts, Done done);
  void Stop() noexcept { worker_.Stop(); }

 private:
  class Kernel;
  struct Run;

  Operation Step(const std::shared_ptr<Run>& run, size_t first, size_t count, bool is_last) const;

  const std::shared_ptr<const PrimaryContext> context_;
  /// Only the worker's thread touches what is in it.
  const std::shared_ptr<Kernel> kernel_;
  StreamWorker worker_;
};

}  // namespace weightcast::cuda
