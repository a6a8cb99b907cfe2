#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "collective/control_file.h"
#include "system/clock.h"
#include "system/failure.h"

namespace weightcast {

/// One rank's place in a collective: how it waits for the others, learns that one of them is gone, and ends the
/// collective for all whose ranks share its control file.
///
/// Only the collective's own thread may use it, but for End and WakeAll.
class Membership {
 public:
  /// Joins. Throws EEXIST if the rank has joined before, EINVAL if others think of another world size.
  Membership(const std::string& path, uint32_t rank, uint32_t world_size);
  /// Leaves, so that it can no longer be waited for.
  ~Membership();
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  uint32_t rank() const { return rank_; }
  uint32_t world_size() const { return control_.world_size(); }
  ControlPage& page() { return control_.page(); }
  /// Whether the rank has joined; false for ranks of other hosts.
  bool IsPresent(uint32_t rank);
  /// How many operations `rank` has begun, how many it has done its part of.
  uint64_t Begun(uint32_t rank) { return control_.rank(rank).begun.load(std::memory_order_acquire); }
  uint64_t Completed(uint32_t rank) { return control_.rank(rank).completed.load(std::memory_order_acquire); }
  /// This rank begins its operation number `operation`, which failures call `what`: "broadcast 3".
  void Begin(uint64_t operation, const std::string& what);
  /// This rank has done its part of its operation number `operation` and of all before it.
  void Complete(uint64_t operation);

  /// Ends the collective for everyone, unless it has ended before.
  void End(Cause::Kind kind) { End(kind, rank_); }
  /// Wakes all who wait on the page's bells.
  void WakeAll() { control_.WakeAll(); }
  bool HasEnded() { return control_.cause().kind != Cause::kNone; }
  /// Throws the failure that ended the collective, if one has.
  void ThrowIfEnded();

  /// Sleeps on the bell until ready(). `awaited(rank)` tells whether a rank's part is still missing.
  template <class Ready, class Awaited>
  void WaitUntil(Bell& bell, double deadline, Ready ready, Awaited awaited);
  /// Ends the collective and throws if a rank that is waited for has died or left.
  template <class Awaited>
  void CheckPeers(Awaited awaited);
  /// Ends the collective with the deadline of a wait for those that `awaited` tells, and throws.
  template <class Awaited>
  void ExpireDeadline(Awaited awaited);

  /// How long a waiter sleeps before it looks whether those it waits for are alive.
  static constexpr double kSliceMilliseconds = 100;

 private:
  void End(Cause::Kind kind, uint32_t subject);
  bool IsGone(uint32_t rank);
  Failure FailureOf(const Cause& cause) const;

  const uint32_t rank_;
  ControlFile control_;
  uint64_t operation_ = 0;
  /// Start of a failure's message: "broadcast 3 on rank 0".
  std::string what_;
};

/// "rank 3", for messages.
std::string RankName(uint32_t rank);

/// Throws OUT_OF_RANGE or EINVAL unless the root is a rank, and this rank has a source if and only if it is the root.
void CheckRoot(uint32_t root, uint32_t rank, uint32_t world_size, bool has_source);

/// Throws OVERLOADED if as many broadcasts wait as may.
void CheckQueue(size_t waiting);

template <class Ready, class Awaited>
void Membership::WaitUntil(Bell& bell, double deadline, Ready ready, Awaited awaited) {
  double next_check = MonotonicMilliseconds() + kSliceMilliseconds;
  for (;;) {
    const uint32_t seen = bell.Count();
    ThrowIfEnded();
    if (ready()) return;
    const double now = MonotonicMilliseconds();
    if (now >= deadline) ExpireDeadline(awaited);
    if (now >= next_check) {
      CheckPeers(awaited);
      next_check = now + kSliceMilliseconds;
    }
    bell.Wait(seen, std::min(next_check, deadline) - now);
  }
}

template <class Awaited>
void Membership::CheckPeers(Awaited awaited) {
  for (uint32_t rank = 0; rank < world_size(); rank++) {
    if (!awaited(rank) || !IsGone(rank)) continue;
    // Asked again: it may have done its part between the first look and its end.
    if (!awaited(rank)) continue;
    End(Cause::kPeerLost, rank);
    ThrowIfEnded();
  }
}

template <class Awaited>
void Membership::ExpireDeadline(Awaited awaited) {
  // Who has not even begun keeps the others waiting; this rank itself stands for nobody in particular.
  uint32_t late = rank_;
  for (uint32_t rank = 0; rank < world_size() && late == rank_; rank++) {
    if (awaited(rank) && Begun(rank) <= operation_) late = rank;
  }
  for (uint32_t rank = 0; rank < world_size() && late == rank_; rank++) {
    if (awaited(rank)) late = rank;
  }
  End(Cause::kDeadline, late);
  ThrowIfEnded();
}

}  // namespace weightcast
