#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "memory/mapping.h"
#include "system/base.h"
#include "system/process.h"

namespace weightcast {

/// The memory that the ranks of a collective share. All of it starts as zero bytes and zero is a valid state, so any
/// rank may make the file and none has to initialise it.

/// What ended a collective before its time; the first one to be written stays.
struct Cause {
  enum Kind : uint8_t { kNone, kAborted, kPeerLost, kDeadline, kFailed };
  Kind kind = kNone;
  /// Who noticed.
  uint16_t reporter = 0;
  /// Who is lost or late; the reporter itself if it cannot tell.
  uint16_t subject = 0;

  uint64_t Packed() const { return kind | uint64_t{reporter} << 16 | uint64_t{subject} << 32; }
  static Cause Unpacked(uint64_t word) {
    return {static_cast<Kind>(word & 0xff), static_cast<uint16_t>(word >> 16), static_cast<uint16_t>(word >> 32)};
  }
};

struct alignas(64) RankState {
  enum Phase : uint32_t { kAbsent, kJoining, kJoined, kLeft };
  /// The identity is written before kJoined.
  std::atomic<uint32_t> phase;
  int32_t pid;
  uint64_t start_time;
  /// How many operations this rank has begun.
  std::atomic<uint64_t> begun;
  /// How many operations this rank has done its part of: on a receiver its own copy, on the root all of it.
  std::atomic<uint64_t> completed;

  ProcessIdentity Process() const { return {static_cast<pid_t>(pid), start_time}; }
};

/// A root's message to the others about one operation. Written by the root while no rank reads it, then `sequence`.
struct alignas(64) Announcement {
  static constexpr size_t kNameBytes = 448;
  /// Number of the operation plus 1; 0 is none.
  std::atomic<uint64_t> sequence;
  /// From the start of the memory that is named below.
  uint64_t offset;
  uint64_t bytes;
  uint32_t root;
  /// Not 0 if members close what they have opened of the root's memory before they complete the operation.
  uint32_t close_opened;
  /// The memory in which the root's source lies, as a BroadcastCopy writes and reads it: what tells it from all other
  /// memory of this host, and what another process opens it with.
  uint64_t identity[2];
  char name[kNameBytes];
};

struct alignas(64) ControlPage {
  /// How many announcements may be open at the same time; operation n uses announcement n mod kRing.
  static constexpr uint64_t kRing = 8;

  std::atomic<uint32_t> world_size;
  std::atomic<uint32_t> left;
  /// A packed Cause.
  std::atomic<uint64_t> cause;
  /// Notified when an announcement is published; receivers wait for it.
  alignas(64) FutexEvent announced;
  /// Notified when a rank has completed an operation; roots wait for it.
  alignas(64) FutexEvent completed;
  Announcement ring[kRing];
};

/// The control file of a collective, mapped: a ControlPage and a RankState for each rank.
class ControlFile {
 public:
  static constexpr uint32_t kMaxWorldSize = 1024;

  /// Makes the file if it is missing. Throws EINVAL if other ranks think of another world size.
  ControlFile(const std::string& path, uint32_t world_size);

  uint32_t world_size() const { return world_size_; }
  const std::string& path() const { return mapping_->path(); }
  ControlPage& page() { return *reinterpret_cast<ControlPage*>(mapping_->data()); }
  RankState& rank(uint32_t number) {
    return reinterpret_cast<RankState*>(mapping_->data() + sizeof(ControlPage))[number];
  }

  /// Throws EEXIST if some process has joined as this rank before: a control file serves one life of each rank.
  void Join(uint32_t rank);
  /// The last rank to leave removes the file.
  void Leave(uint32_t rank);

  /// Records why the collective ends, unless it has ended before, and wakes everyone.
  void End(const Cause& cause);
  /// kNone while the collective is sound.
  Cause cause() { return Cause::Unpacked(page().cause.load(std::memory_order_acquire)); }
  void WakeAll();

 private:
  const uint32_t world_size_;
  std::shared_ptr<Mapping> mapping_;
};

/// One rank's place in a collective: how it waits for the others, notices that one of them has died or left, and ends
/// the collective for all whose ranks share its control file.
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
  /// Wakes all that wait for the page's events.
  void WakeAll() { control_.WakeAll(); }
  bool HasEnded() { return control_.cause().kind != Cause::kNone; }
  /// Throws the failure that ended the collective, if one has.
  void ThrowIfEnded();

  /// Sleeps on the event until ready(). `awaited(rank)` tells whether a rank's part is still missing.
  template <class Ready, class Awaited>
  void WaitUntil(FutexEvent& event, double deadline, Ready ready, Awaited awaited);
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
void Membership::WaitUntil(FutexEvent& event, double deadline, Ready ready, Awaited awaited) {
  double next_check = MonotonicMilliseconds() + kSliceMilliseconds;
  for (;;) {
    const uint32_t seen = event.Count();
    ThrowIfEnded();
    if (ready()) return;
    const double now = MonotonicMilliseconds();
    if (now >= deadline) ExpireDeadline(awaited);
    if (now >= next_check) {
      CheckPeers(awaited);
      next_check = now + kSliceMilliseconds;
    }
    event.Wait(seen, std::min(next_check, deadline) - now);
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
  // A rank that has not even begun keeps the others waiting; this rank itself stands for no particular one.
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
