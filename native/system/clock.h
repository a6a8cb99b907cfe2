#pragma once

namespace weightcast {

/// CLOCK_MONOTONIC in milliseconds: one time for all processes of a host.
double MonotonicMilliseconds();

/// When an operation ran, in milliseconds of MonotonicMilliseconds().
struct Interval {
  double started_at = 0;
  double ended_at = 0;
};

}  // namespace weightcast
