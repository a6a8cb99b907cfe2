#include "device/cuda/gpu_clock.h"

#include <algorithm>
#include <utility>

namespace weightcast::cuda {

std::optional<OwnedEvent> GpuClock::Locate(Work work, Interval* interval) {
  double started_at = work.enqueued_at;
  if (last_end_ && !work.found_idle) {
    started_at = std::max(started_at, last_ended_at_ + Elapsed(*last_end_, work.start));
  }
  interval->ended_at = std::min(started_at + Elapsed(work.start, work.end), work.seen_at);
  interval->started_at = std::min(started_at, interval->ended_at);
  last_ended_at_ = interval->ended_at;
  std::optional<OwnedEvent> before = std::move(last_end_);
  last_end_ = std::move(work.end);
  return before;
}

double GpuClock::Elapsed(const OwnedEvent& from, const OwnedEvent& to) const {
  float milliseconds = 0;
  driver_.Check(driver_.cuEventElapsedTime(&milliseconds, from.get(), to.get()),
                "cannot ask how long the device worked");
  return milliseconds;
}

}  // namespace weightcast::cuda
