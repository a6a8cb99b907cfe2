#pragma once

#include <optional>

#include "device/cuda/handles.h"
#include "system/clock.h"

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
    /// A time at which the end was known to have come.
    double seen_at;
  };

  /// Both events have come. Returns the event kept before, for reuse. Throws as Driver::Check.
  std::optional<OwnedEvent> Locate(Work work, Interval* interval);

 private:
  double Elapsed(const OwnedEvent& from, const OwnedEvent& to) const;

  const Driver& driver_;
  std::optional<OwnedEvent> last_end_;
  double last_ended_at_ = 0;
};

}  // namespace weightcast::cuda
