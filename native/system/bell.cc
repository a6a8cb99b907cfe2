#include "system/bell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cmath>
#include <ctime>

namespace weightcast {

void Bell::Wait(uint32_t seen, double milliseconds) {
  if (milliseconds <= 0) return;
  timespec timeout{};
  timeout.tv_sec = static_cast<time_t>(milliseconds / 1e3);
  timeout.tv_nsec = static_cast<long>(std::fmod(milliseconds, 1e3) * 1e6);
  // Not FUTEX_PRIVATE: the word is shared among processes.
  syscall(SYS_futex, &count_, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

void Bell::Ring() {
  count_.fetch_add(1, std::memory_order_release);
  syscall(SYS_futex, &count_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace weightcast
