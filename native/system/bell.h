#pragma once

#include <atomic>
#include <cstdint>

namespace weightcast {

/// Tells waiting threads, also in other processes, that something they look at has changed. Zero bytes in shared
/// memory are a valid bell. A waiter takes the count, looks at what it waits for, and sleeps only if the count has
/// not moved since, so no ring is missed.
class Bell {
 public:
  uint32_t Count() const { return count_.load(std::memory_order_acquire); }
  /// Sleeps until the count differs from `seen`, but not longer than `milliseconds`; may return early.
  void Wait(uint32_t seen, double milliseconds);
  void Ring();

 private:
  std::atomic<uint32_t> count_;
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(Bell) == 4, "a futex word");

}  // namespace weightcast
