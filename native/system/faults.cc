#include "system/faults.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <thread>

namespace weightcast::faults {
namespace {

constexpr const char* kPointNames[kPoints] = {"native-pin", "native-upload", "native-read", "native-broadcast"};
constexpr const char* kActionNames[] = {"none", "crash", "stop", "delay", "refuse"};

template <size_t kCount>
size_t IndexOf(const char* const (&names)[kCount], const std::string& name, const char* what) {
  for (size_t index = 0; index < kCount; index++) {
    if (name == names[index]) return index;
  }
  throw Failure::System(EINVAL, std::string("there is no ") + what + " " + name);
}

}  // namespace

Armed armed[kPoints];

Point PointOf(const std::string& name) { return static_cast<Point>(IndexOf(kPointNames, name, "fault point")); }

Action ActionOf(const std::string& name) { return static_cast<Action>(IndexOf(kActionNames, name, "fault")); }

void Arm(Point point, Action action, uint32_t milliseconds) {
  Armed& at = armed[static_cast<size_t>(point)];
  at.milliseconds.store(milliseconds, std::memory_order_relaxed);
  at.action.store(action, std::memory_order_release);
}

std::optional<Failure> Happen(Point point) {
  Armed& at = armed[static_cast<size_t>(point)];
  // Of several threads that are there, one.
  switch (at.action.exchange(Action::kNone, std::memory_order_acquire)) {
    case Action::kNone:
      break;
    case Action::kCrash:
      kill(getpid(), SIGKILL);
      break;
    case Action::kStop:
      kill(getpid(), SIGSTOP);
      break;
    case Action::kDelay:
      std::this_thread::sleep_for(std::chrono::milliseconds(at.milliseconds.load(std::memory_order_relaxed)));
      break;
    case Action::kRefuse:
      return Failure::System(ENOMEM, std::string(kPointNames[static_cast<size_t>(point)]) + ":refuse, on purpose");
  }
  return std::nullopt;
}

}  // namespace weightcast::faults
