#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "memory/mapping.h"
#include "system/bell.h"
#include "system/process_identity.h"

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

/// What a root tells the others about one operation. Written by the root while nobody reads it, then `sequence`.
struct alignas(64) Announcement {
  static constexpr size_t kNameBytes = 448;
  /// Number of the operation plus 1; 0 is none.
  std::atomic<uint64_t> sequence;
  /// From the start of the memory that is named below.
  uint64_t offset;
  uint64_t bytes;
  uint32_t root;
  /// Not 0 if members close what they have opened of the root's memory before they complete the operation.
  uint32_t lets_go;
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
  /// Rung when an announcement is published; receivers wait for it.
  alignas(64) Bell announced;
  /// Rung when a rank has completed an operation; roots wait for it.
  alignas(64) Bell completed;
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

}  // namespace weightcast
