#include "system/process.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <optional>
#include <string>

#include "system/base.h"

namespace weightcast {
namespace {

struct ProcessState {
  char state;
  uint64_t start_time;
};

/// Nothing if there is no such process.
std::optional<ProcessState> ReadState(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    if (errno == ENOENT) return std::nullopt;
    throw Failure::System(errno, "cannot open " + path);
  }
  char text[1024];
  const ssize_t length = read(file.get(), text, sizeof(text) - 1);
  if (length < 0 && errno == ESRCH) return std::nullopt;
  if (length <= 0) throw Failure::System(length < 0 ? errno : EIO, "cannot read " + path);
  text[length] = '\0';
  // The second field is the program's name in brackets, which may itself hold blanks and brackets.
  const char* fields = std::strrchr(text, ')');
  ProcessState found{};
  unsigned long long start_time = 0;
  const bool parsed =
      fields != nullptr &&
      std::sscanf(fields, ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
                  &found.state, &start_time) == 2;
  if (!parsed) throw Failure("EPROTO", path + " does not have the form of proc(5)");
  found.start_time = start_time;
  return found;
}

}  // namespace

ProcessIdentity ProcessIdentity::Self() {
  const pid_t pid = getpid();
  const auto state = ReadState(pid);
  if (!state) throw Failure("ENOENT", "/proc does not show this process; is it mounted?");
  return {pid, state->start_time};
}

bool ProcessIdentity::IsAlive() const {
  const auto found = ReadState(pid);
  return found && found->start_time == start_time && found->state != 'Z' && found->state != 'X';
}

void FutexEvent::Wait(uint32_t seen, double milliseconds) {
  if (milliseconds <= 0) return;
  timespec timeout{};
  timeout.tv_sec = static_cast<time_t>(milliseconds / 1e3);
  timeout.tv_nsec = static_cast<long>(std::fmod(milliseconds, 1e3) * 1e6);
  // Not FUTEX_PRIVATE: the word is shared among processes.
  syscall(SYS_futex, &count_, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

void FutexEvent::Notify() {
  count_.fetch_add(1, std::memory_order_release);
  syscall(SYS_futex, &count_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace weightcast
