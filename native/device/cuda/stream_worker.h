#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "device/cuda/context.h"
#include "system/base.h"

namespace weightcast::cuda {

/// When work on one stream ran, in the host's time but by the GPU's own events.
///
/// The driver tells only how long after another event an event came. Work on an idle stream begins when it is enqueued,
/// give or take the microseconds that it needs to get there; what follows without a pause is placed by its distance
/// from what was before it. So intervals never overlap, gaps between them keep the GPU's precision, and the drift of
/// the two clocks does not add up. Used on one thread.
class GpuClock {
 public:
  explicit GpuClock(const Driver& driver) : driver_(driver) {}

  struct Work {
    const OwnedEvent& start;
    /// Comes after the `end` of the call before; kept until the next call.
    OwnedEvent end;
    bool found_idle;
    double enqueued_at;
    /// A time by which the end had been seen.
    double seen_at;
  };

  /// Both events have happened. Returns the event kept before, for reuse. Throws as Driver::Check.
  std::optional<OwnedEvent> Locate(Work work, Interval* interval);

 private:
  double Elapsed(const OwnedEvent& from, const OwnedEvent& to) const;

  const Driver& driver_;
  std::optional<OwnedEvent> last_end_;
  double last_ended_at_ = 0;
};

/// One piece of work on a stream.
struct Operation {
  /// "upload to device GPU-1234", for messages.
  std::string what;
  /// Moved or read by the operation: the more, the longer it may take.
  uint64_t bytes = 0;
  /// Enqueues the work. On the worker's thread, in the context. What it throws is the operation's failure, reported
  /// after all it had enqueued has ended.
  std::function<void(Stream)> enqueue;
  /// Called after the work has ended well, before `done`; may be empty. Frees nothing of the context.
  std::function<void()> collect;
  /// On the worker's thread, when the others are destroyed with what they hold.
  Done done;
};

/// A stream, and a thread that fills it and reports what has ended. Operations run in the order they were submitted;
/// many are enqueued before the first has ended, so that the GPU goes from one to the next without waiting for the
/// host. The thread sleeps meanwhile: a callback of the driver, on a stream beside so that nothing waits for it, wakes
/// it.
///
/// An operation that makes no progress for `stall_milliseconds` and a millisecond for each MiB, or an error that stays
/// with the context, ends the worker: this and all later operations fail with DEVICE_LOST. What they hold is then kept
/// for ever, because a copy that hangs may still go on.
///
/// Submit and Stop are called on one thread.
class StreamWorker {
 public:
  /// `thread_name` as for StartThread. At most `depth` operations are enqueued at a time.
  StreamWorker(std::shared_ptr<const PrimaryContext> context, const char* thread_name, size_t depth,
               double stall_milliseconds);
  /// As Stop().
  ~StreamWorker();
  StreamWorker(const StreamWorker&) = delete;
  StreamWorker& operator=(const StreamWorker&) = delete;

  /// Throws CLOSED after Stop(), DEVICE_LOST once the worker has ended, and OVERLOADED at 4,096 operations.
  void Submit(Operation operation);
  /// Waits for the operations that are enqueued, ten seconds at most; those behind them fail with CLOSED. May be called
  /// twice.
  void Stop() noexcept;

 private:
  class Loop;

  const std::shared_ptr<Loop> loop_;
  std::thread thread_;
};

}  // namespace weightcast::cuda
