#pragma once

#include <algorithm>

namespace weightcast {

/// How long to sleep between two looks at something that tells nobody when it is ready: little at first, since most
/// things are quick, then longer, since the rest costs nothing to wait for.
class Backoff {
 public:
  explicit Backoff(double most_milliseconds) : most_(most_milliseconds) {}

  /// Milliseconds.
  double Next() {
    const double sleep = next_;
    next_ = std::min(next_ * kGrowth, most_);
    return sleep;
  }
  void Reset() { next_ = kLeast; }

 private:
  static constexpr double kLeast = 0.02;
  static constexpr double kGrowth = 1.5;

  const double most_;
  double next_ = kLeast;
};

}  // namespace weightcast
