#pragma once

#include <functional>
#include <optional>

#include "system/clock.h"
#include "system/failure.h"

namespace weightcast {

/// How work on a native thread ended.
struct Outcome {
  Interval interval;
  std::optional<Failure> failure;
};

/// Called exactly once, on the thread that ended the work, or never if the work is dropped because the process or
/// the JavaScript environment ends. Must not throw, and must not call back into the object that does the work.
using Done = std::function<void(const Outcome&)>;

}  // namespace weightcast
