#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "system/base.h"

/// Faults that happen on purpose amid native work, for tests of what becomes of them. JavaScript arms a point when an
/// order of WEIGHTCAST_FAULTS is due (src/faults); until then a point costs one read of a word that nobody writes.

namespace weightcast::faults {

enum class Point : uint8_t {
  /// A part of a segment is about to be page-locked.
  kPin,
  /// A piece of an upload is about to be copied.
  kUpload,
  /// A piece that was read from a peer has arrived, and is not counted yet.
  kRead,
  /// A rank is about to copy its part of a broadcast: its root has announced it.
  kBroadcast,
};
inline constexpr size_t kPoints = 4;

enum class Action : uint8_t { kNone, kCrash, kStop, kDelay, kRefuse };

struct Armed {
  std::atomic<Action> action{Action::kNone};
  std::atomic<uint32_t> milliseconds{0};
};
extern Armed armed[kPoints];

/// Happens once, the next time that any thread reaches the point. `milliseconds`: of kDelay.
void Arm(Point point, Action action, uint32_t milliseconds);

/// Throws EINVAL for a name that there is not.
Point PointOf(const std::string& name);
Action ActionOf(const std::string& name);

/// What is armed there happens. Returns the failure that the work is to end with: there is no memory for it.
std::optional<Failure> Happen(Point point);

/// The point is reached.
inline std::optional<Failure> Strike(Point point) {
  if (armed[static_cast<size_t>(point)].action.load(std::memory_order_relaxed) == Action::kNone) return std::nullopt;
  return Happen(point);
}

/// The same, where the work fails by a throw.
inline void StrikeOrThrow(Point point) {
  if (const std::optional<Failure> failure = Strike(point)) throw *failure;
}

}  // namespace weightcast::faults
