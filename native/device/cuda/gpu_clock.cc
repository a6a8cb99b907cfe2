#include "device/cuda/gpu_clock.h"

#include <algorithm>
#include <utility>

namespace weightcast::cuda {

std::optional<OwnedEvent> GpuClock::Locate(const OwnedEvent& start, OwnedEvent end, double enqueued_at,
                                           double seen_at, Interval* interval) {
  const double took = Elapsed(start.get(), end.get());
  const double by_reference =
      reference_ ? reference_at_ + Elapsed(reference_->get(), end.get()) : seen_at;
  interval->started_at = std::max(std::min(by_reference, seen_at) - took, enqueued_at);
  interval->ended_at = std::min(interval->started_at + took, seen_at);
  reference_at_ = interval->ended_at;
  std::optional<OwnedEvent> before = std::move(reference_);
  reference_ = std::move(end);
  return before;
}

double GpuClock::Elapsed(Event from, Event to) const {
  float milliseconds = 0;
  driver_.Check(driver_.cuEventElapsedTime(&milliseconds, from, to), "cannot ask how long the device worked");
  return milliseconds;
}

}  // namespace weightcast::cuda
