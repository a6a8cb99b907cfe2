#pragma once

#include <sys/types.h>

#include <cstdint>

namespace weightcast {

/// A process for all its life: the start time tells it from a later process with the same number. Valid among
/// processes of one PID namespace.
struct ProcessIdentity {
  pid_t pid = 0;
  /// Clock ticks after boot, from /proc/<pid>/stat.
  uint64_t start_time = 0;

  static ProcessIdentity Self();

  bool operator==(const ProcessIdentity& other) const {
    return pid == other.pid && start_time == other.start_time;
  }

  /// False once the process has ended, also while it is a zombie that nobody has waited for.
  bool IsAlive() const;
};

}  // namespace weightcast
