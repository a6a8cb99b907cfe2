#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "collective/membership.h"
#include "collective/nccl.h"
#include "device/cuda/context.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/stream_worker.h"
#include "system/base.h"

namespace weightcast {

/// One broadcast through NCCL, as one rank sees it.
struct NcclBroadcast {
  uint32_t root = 0;
  /// Without a block but on the root.
  cuda::DeviceLocation source;
  cuda::DeviceLocation destination;
  uint64_t bytes = 0;
  /// In milliseconds of MonotonicMilliseconds().
  double deadline = 0;
  Done done;
};

/// The broadcasts in flight on the device: on a stream of their own, in order, several at a time. Used on the
/// collective's thread, with the device's context current.
class NcclPipeline {
 public:
  explicit NcclPipeline(std::shared_ptr<const cuda::PrimaryContext> context);

  bool IsEmpty() const { return in_flight_.empty(); }
  bool HasRoom() const { return in_flight_.size() < kMost; }
  /// The earliest of all in flight.
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
  /// The `done` of all in flight, which ends them; their memory is kept as long as the pipeline.
  std::vector<Done> Abandon();

 private:
  /// Enough to keep the device busy while completions travel, few enough to be ended soon.
  static constexpr size_t kMost = 8;

  struct InFlight {
    NcclBroadcast broadcast;
    std::optional<cuda::OwnedEvent> started;
    std::optional<cuda::OwnedEvent> ended;
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
  std::deque<InFlight> in_flight_;
  /// To use again.
  std::vector<cuda::OwnedEvent> spare_events_;
};

/// Broadcast among CUDA devices through NCCL.
///
/// Every rank gives the same broadcasts in the same order. A thread of the collective's own appends them to a stream in
/// that order and checks on them. The first failure ends the collective here, with all that is in flight. Ranks of
/// one host share a control file, through which they learn of it within milliseconds, and of a rank that has died or
/// left within about 100 ms; ranks of other hosts learn of it when their caller aborts them too, or at their deadlines.
///
/// Nothing waits for NCCL or the device longer than a deadline and the time that an abort may take. If an abort does
/// not end in that time, DEVICE_LOST says that the process has to be started again.
///
/// Open, Submit, Abort, Close and the destructor are called from one thread at a time. `done` of a broadcast runs on
/// the collective's thread.
class NcclCollective {
 public:
  struct Options {
    /// Control file of the ranks on this host.
    std::string path;
    nccl::UniqueId id;
    uint32_t rank;
    uint32_t world_size;
  };

  /// Throws NCCL if there is none that will do, EEXIST if the rank has joined before, EINVAL if others think of another
  /// world size.
  NcclCollective(std::shared_ptr<const cuda::PrimaryContext> context, const Options& options);
  /// As CloseAndWait().
  ~NcclCollective();
  NcclCollective(const NcclCollective&) = delete;
  NcclCollective& operator=(const NcclCollective&) = delete;

  /// Meets the others; called once, before anything else. `deadline` in milliseconds of MonotonicMilliseconds().
  void Open(double deadline, Done opened);
  /// Throws CLOSED, OVERLOADED, OUT_OF_RANGE or EINVAL, and then has submitted nothing.
  void Submit(NcclBroadcast broadcast);
  /// Ends the operations in flight, on all ranks of this host, with ABORTED; later ones fail at once.
  void Abort();
  /// Leaves; aborts if operations submitted here are not complete. `closed` is called once all device memory is
  /// free again. Only the first call has an effect.
  void Close(Done closed);
  /// Closes, and waits for the thread. At most some seconds, whatever NCCL does.
  void CloseAndWait();

 private:
  void CheckArguments(const NcclBroadcast& broadcast) const;

  void RunThread(double deadline, const Done& opened);
  void Initialise(double deadline);
  void Serve();
  /// Waits for a broadcast, or until it is time to check on those in flight. False when closed and all is settled.
  bool Await(std::optional<NcclBroadcast>& next, double milliseconds);
  void Issue(NcclBroadcast broadcast);
  /// Settles what is complete. Throws what has ended the collective, or is found to end it now.
  void CheckProgress(double deadline);
  void SettleComplete();
  /// Whether the rank still has to do its part of the oldest operation that is not complete here.
  bool IsAwaited(uint32_t rank);
  /// Ends the collective, because of `cause` unless something else came first, and all that is in flight.
  void Fail(const Failure& cause);
  /// The death of a rank if there is one, of which `failure` then is only the consequence.
  Failure RootCauseOf(const Failure& failure);
  Failure StuckFailure(const std::string& reason) const;
  void Leave();
  void Settle(const Done& done, const Outcome& outcome);

  const std::shared_ptr<const cuda::PrimaryContext> context_;
  const nccl::UniqueId id_;
  const uint32_t rank_;
  const uint32_t world_size_;

  // Of the thread alone, once that runs.
  std::unique_ptr<NcclCommunicator> communicator_;
  std::unique_ptr<NcclPipeline> pipeline_;
  double peers_checked_at_ = 0;
  /// Operation 0 is to open; broadcast n is operation n + 1.
  uint64_t issued_ = 0;
  uint64_t completed_ = 0;
  /// What has ended the collective; later operations fail with it.
  std::optional<Failure> failure_;

  std::mutex mutex_;
  std::condition_variable changed_;
  /// Null once the thread has left.
  std::unique_ptr<Membership> membership_;
  std::deque<NcclBroadcast> queue_;
  /// How many operations have been submitted and not settled; opening is one.
  size_t pending_ = 0;
  bool closed_ = false;
  Done on_closed_;
  std::thread thread_;
};

}  // namespace weightcast
