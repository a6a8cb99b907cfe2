#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>

namespace weightcast {

/// Identifies a process for as long as the host runs: the start time tells it from a later process with the same
/// number. Valid among processes of one PID namespace.
struct ProcessIdentity {
  pid_t pid = 0;
  /// Clock ticks after boot, from /proc/<pid>/stat.
  uint64_t start_time = 0;

  static ProcessIdentity Self();

  bool operator==(const ProcessIdentity& other) const { return pid == other.pid && start_time == other.start_time; }

  /// False once the process has ended, also while it is a zombie that nobody has waited for.
  bool IsAlive() const;
};

/// Wakes threads, also of other processes, that wait for a change of shared memory. Zero bytes in shared memory are a
/// valid event. A waiter reads the count, checks its condition, and sleeps only if the count has not changed since, so
/// that no notification is missed.
class FutexEvent {
 public:
  uint32_t Count() const { return count_.load(std::memory_order_acquire); }
  /// Sleeps until the count differs from `seen`, but not longer than `milliseconds`; may return early.
  void Wait(uint32_t seen, double milliseconds);
  void Notify();

 private:
  std::atomic<uint32_t> count_;
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(FutexEvent) == 4, "a futex word");

}  // namespace weightcast
