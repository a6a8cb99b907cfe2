#include "collective/membership.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "system/base.h"

namespace weightcast {
namespace {

void EnsureFile(const std::string& path, uint64_t bytes) {
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) throw Failure::System(errno, "cannot open " + path);
  // Not ftruncate(2), which could shrink the file under a rank that has mapped it. This only ever grows it, and
  // reserves the pages.
  int error;
  do {
    error = posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
  } while (error == EINTR);
  if (error != 0) throw Failure::System(error, "cannot reserve " + path);
}

}  // namespace

ControlFile::ControlFile(const std::string& path, uint32_t world_size) : world_size_(world_size) {
  if (world_size == 0 || world_size > kMaxWorldSize) {
    throw Failure(code::kOutOfRange, "a collective has 1 to " + std::to_string(kMaxWorldSize) + " ranks, not " +
                                         std::to_string(world_size));
  }
  const uint64_t bytes = sizeof(ControlPage) + world_size * sizeof(RankState);
  EnsureFile(path, bytes);
  mapping_ = Mapping::Open(path, true);
  mapping_->CheckRange(0, bytes);
  uint32_t agreed = 0;
  if (!page().world_size.compare_exchange_strong(agreed, world_size) && agreed != world_size) {
    throw Failure("EINVAL", path + " is for " + std::to_string(agreed) + " ranks, not " + std::to_string(world_size));
  }
}

void ControlFile::Join(uint32_t rank) {
  RankState& state = this->rank(rank);
  uint32_t absent = RankState::kAbsent;
  if (!state.phase.compare_exchange_strong(absent, RankState::kJoining)) {
    throw Failure("EEXIST", "rank " + std::to_string(rank) + " has joined " + path() + " before");
  }
  const ProcessIdentity self = ProcessIdentity::Self();
  state.pid = self.pid;
  state.start_time = self.start_time;
  state.phase.store(RankState::kJoined, std::memory_order_release);
}

void ControlFile::Leave(uint32_t rank) {
  this->rank(rank).phase.store(RankState::kLeft, std::memory_order_release);
  WakeAll();
  if (page().left.fetch_add(1) + 1 == world_size_) mapping_->Unlink();
}

void ControlFile::End(const Cause& cause) {
  uint64_t sound = 0;
  page().cause.compare_exchange_strong(sound, cause.Packed(), std::memory_order_acq_rel);
  WakeAll();
}

void ControlFile::WakeAll() {
  page().announced.Notify();
  page().completed.Notify();
}

namespace {

uint32_t CheckedRank(uint32_t rank, uint32_t world_size) {
  if (rank < world_size) return rank;
  throw Failure(code::kOutOfRange, RankName(rank) + " is not one of " + std::to_string(world_size) + " ranks");
}

}  // namespace

std::string RankName(uint32_t rank) { return "rank " + std::to_string(rank); }

void CheckRoot(uint32_t root, uint32_t rank, uint32_t world_size, bool has_source) {
  if (root >= world_size) {
    throw Failure(code::kOutOfRange,
                  "root " + std::to_string(root) + " is not one of " + std::to_string(world_size) + " ranks");
  }
  if (has_source != (root == rank)) {
    throw Failure("EINVAL", "a source is given on the root and nowhere else; root " + std::to_string(root) + ", " +
                                RankName(rank));
  }
}

void CheckQueue(size_t waiting) {
  constexpr size_t kMost = 4096;
  if (waiting < kMost) return;
  throw Failure(code::kOverloaded, "the collective already has " + std::to_string(kMost) + " broadcasts waiting");
}

// The rank is checked before there is a file.
Membership::Membership(const std::string& path, uint32_t rank, uint32_t world_size)
    : rank_(CheckedRank(rank, world_size)), control_(path, world_size) {
  control_.Join(rank_);
}

Membership::~Membership() { control_.Leave(rank_); }

bool Membership::IsPresent(uint32_t rank) {
  const uint32_t phase = control_.rank(rank).phase.load(std::memory_order_acquire);
  return phase == RankState::kJoined || phase == RankState::kLeft;
}

void Membership::Begin(uint64_t operation, const std::string& what) {
  operation_ = operation;
  what_ = what + " on " + RankName(rank_) + ": ";
  control_.rank(rank_).begun.store(operation + 1, std::memory_order_release);
}

void Membership::Complete(uint64_t operation) {
  control_.rank(rank_).completed.store(operation + 1, std::memory_order_release);
  page().completed.Notify();
}

void Membership::End(Cause::Kind kind, uint32_t subject) {
  control_.End({kind, static_cast<uint16_t>(rank_), static_cast<uint16_t>(subject)});
}

void Membership::ThrowIfEnded() {
  const Cause cause = control_.cause();
  if (cause.kind != Cause::kNone) throw FailureOf(cause);
}

bool Membership::IsGone(uint32_t rank) {
  if (!IsPresent(rank)) return false;
  const RankState& state = control_.rank(rank);
  return state.phase.load(std::memory_order_acquire) == RankState::kLeft || !state.Process().IsAlive();
}

Failure Membership::FailureOf(const Cause& cause) const {
  const std::string reporter = RankName(cause.reporter);
  const std::string subject = cause.subject == cause.reporter ? "the others" : RankName(cause.subject);
  switch (cause.kind) {
    case Cause::kPeerLost:
      return Failure(code::kPeerLost, what_ + subject + " is gone (noticed by " + reporter + ")");
    case Cause::kDeadline:
      return Failure(code::kDeadline, what_ + reporter + " waited for " + subject + " until its deadline");
    case Cause::kFailed:
      return Failure(code::kAborted, what_ + reporter + " failed");
    default:
      return Failure(code::kAborted, what_ + "aborted by " + reporter);
  }
}

}  // namespace weightcast
