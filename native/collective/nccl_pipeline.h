#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "collective/nccl_communicator.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/gpu_clock.h"
#include "device/cuda/handles.h"
#include "system/outcome.h"

namespace weightcast {

/// One broadcast through NCCL, as one rank sees it.
struct NcclBroadcast {
  uint32_t root = 0;
  /// Without a block but on the root.
  cuda::DevicePlace source;
  cuda::DevicePlace destination;
  uint64_t bytes = 0;
  /// In milliseconds of MonotonicMilliseconds().
  double deadline = 0;
  Done done;
};

/// The broadcasts that are under way on the device: on a stream of their own, in order, several at a time. Used on the
/// collective's thread, with the device's context current.
class NcclPipeline {
 public:
  explicit NcclPipeline(std::shared_ptr<const cuda::PrimaryContext> context);

  bool IsEmpty() const { return under_way_.empty(); }
  bool HasRoom() const { return under_way_.size() < kMost; }
  /// The earliest of all that are under way.
  double Deadline() const;

  /// Takes the broadcast and appends it to the stream; whatever is thrown, it is under way from then on.
  void Issue(NcclCommunicator& communicator, NcclBroadcast broadcast, const NcclCommunicator::Pause& pause);

  struct Ended {
    Done done;
    Interval interval;
  };
  /// Those that have ended since the last call, in order. Throws CUDA.
  std::vector<Ended> TakeEnded();

  /// Waits until nothing of ours runs on the device any more. False if that takes longer.
  bool Drain(double milliseconds);
  /// Ends all that are under way; their memory is kept as long as the pipeline.
  std::vector<Done> Abandon();

 private:
  /// Enough to keep the device busy while completions travel, few enough to be ended soon.
  static constexpr size_t kMost = 8;

  struct UnderWay {
    NcclBroadcast broadcast;
    cuda::OwnedEvent started;
    cuda::OwnedEvent ended;
    bool found_idle = false;
    double enqueued_at = 0;
    /// Whether all of it is on the stream.
    bool is_issued = false;
  };

  Ended TakeFront();
  cuda::OwnedEvent TakeEvent();

  const std::shared_ptr<const cuda::PrimaryContext> context_;
  const cuda::Driver& driver_;
  const cuda::OwnedStream stream_;
  cuda::GpuClock clock_;
  std::deque<UnderWay> under_way_;
  /// To use again.
  std::vector<cuda::OwnedEvent> spare_events_;
};

}  // namespace weightcast
