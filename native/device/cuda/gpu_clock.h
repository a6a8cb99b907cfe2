#pragma once

#include <memory>
#include <optional>

#include "device/cuda/handles.h"
#include "system/clock.h"

namespace weightcast::cuda {

/// When work on one stream ran, in the host's time but by the GPU's own events.
///
/// The driver tells only how long after another event an event came, so the clock keeps the last event it placed as
/// the next one's reference: gaps between operations keep the GPU's precision of microseconds. No operation starts
/// before it was enqueued or ends after it was seen to have ended; where the reference says otherwise, because it was
/// placed late or the two clocks have drifted apart, it yields. Used on one thread.
class GpuClock {
 public:
  explicit GpuClock(const Driver& driver) : driver_(driver) {}

  /// Both events have come, and `end` came after the `end` of the call before; `end` is kept and the event kept before
  /// returned for reuse, if there was one. Throws as Driver::Check.
  std::optional<OwnedEvent> Locate(const OwnedEvent& start, OwnedEvent end, double enqueued_at, double seen_at,
                                   Interval* interval);

 private:
  double Elapsed(Event from, Event to) const;

  const Driver& driver_;
  std::optional<OwnedEvent> reference_;
  double reference_at_ = 0;
};

}  // namespace weightcast::cuda
