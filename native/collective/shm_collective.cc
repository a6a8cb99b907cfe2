#include "collective/shm_collective.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>

#include "memory/stream_copy.h"
#include "system/native_thread.h"

namespace weightcast {
namespace {

/// How long a waiter sleeps before it looks whether those it waits for are alive.
constexpr double kSliceMilliseconds = 100;
/// How much is copied before it is checked whether the collective has ended.
constexpr uint64_t kCopyStep = uint64_t{4} << 20;

std::string RankName(uint32_t rank) { return "rank " + std::to_string(rank); }

}  // namespace

ShmCollective::ShmCollective(const std::string& path, uint32_t rank, uint32_t world_size)
    : rank_(rank), control_(path, world_size) {
  control_.Join(rank_);
  try {
    thread_ = StartThread("weightcast-coll", [this] { RunThread(); });
  } catch (...) {
    control_.Leave(rank_);
    throw;
  }
}

ShmCollective::~ShmCollective() { Close(); }

void ShmCollective::Give(Broadcast broadcast) {
  CheckArguments(broadcast);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) throw Failure(code::kClosed, "the collective is closed");
  queue_.push_back(std::move(broadcast));
  given_.notify_one();
}

void ShmCollective::CheckArguments(const Broadcast& broadcast) const {
  if (broadcast.root >= control_.world_size()) {
    throw Failure(code::kOutOfRange, "root " + std::to_string(broadcast.root) + " is not one of " +
                                         std::to_string(control_.world_size()) + " ranks");
  }
  if ((broadcast.source != nullptr) != (broadcast.root == rank_)) {
    throw Failure("EINVAL", "a source is given on the root and nowhere else; root " +
                                std::to_string(broadcast.root) + ", " + RankName(rank_));
  }
  broadcast.destination->CheckRange(broadcast.destination_offset, broadcast.bytes);
  broadcast.destination->CheckWritable();
  if (!broadcast.source) return;
  broadcast.source->CheckRange(broadcast.source_offset, broadcast.bytes);
  const std::string& path = broadcast.source->path();
  if (path.empty() || path.front() != '/' || path.size() >= Announcement::kPathBytes) {
    throw Failure("EINVAL", "the source's path must be absolute and shorter than " +
                                std::to_string(Announcement::kPathBytes) + " bytes: " + path);
  }
}

void ShmCollective::Abort() { control_.End({Cause::kAborted, static_cast<uint16_t>(rank_), 0}); }

void ShmCollective::Close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_.exchange(true)) return;
    if (executing_ || !queue_.empty()) Abort();
    given_.notify_one();
  }
  thread_.join();
  control_.Leave(rank_);
}

void ShmCollective::RunThread() {
  while (const std::optional<Broadcast> broadcast = Take()) {
    Outcome outcome;
    outcome.interval.started_at = MonotonicMilliseconds();
    outcome.failure = Execute(*broadcast);
    outcome.interval.ended_at = MonotonicMilliseconds();
    operation_++;
    const std::lock_guard<std::mutex> lock(mutex_);
    // Together with `done`: whoever hears of the end may close the collective, and that must not be an abort then.
    executing_ = false;
    broadcast->done(outcome);
  }
}

std::optional<Broadcast> ShmCollective::Take() {
  std::unique_lock<std::mutex> lock(mutex_);
  given_.wait(lock, [this] { return closed_ || !queue_.empty(); });
  if (queue_.empty()) return std::nullopt;
  std::optional<Broadcast> broadcast = std::move(queue_.front());
  queue_.pop_front();
  executing_ = true;
  return broadcast;
}

std::optional<Failure> ShmCollective::Execute(const Broadcast& broadcast) {
  std::optional<Failure> failure;
  try {
    ThrowIfEnded();
    if (broadcast.root == rank_) {
      Send(broadcast);
    } else {
      Receive(broadcast);
    }
    return std::nullopt;
  } catch (const Failure& thrown) {
    failure = thrown;
  } catch (const std::exception& thrown) {
    failure = Failure("EIO", thrown.what());
  }
  // Does nothing if what was thrown is the end of the collective itself.
  control_.End({Cause::kFailed, static_cast<uint16_t>(rank_), 0});
  return failure;
}

void ShmCollective::Send(const Broadcast& broadcast) {
  // The announcement's last user must be done with it: its receivers, and its root that may still count them.
  if (operation_ >= ControlPage::kRing) {
    WaitForCompletion(operation_ - ControlPage::kRing + 1, broadcast.deadline);
  }
  Announce(broadcast);
  CopyInto(broadcast, *broadcast.source, broadcast.source_offset);
  WaitForCompletion(operation_ + 1, broadcast.deadline);
  control_.rank(rank_).completed.store(operation_ + 1, std::memory_order_release);
  control_.page().completed.Ring();
}

void ShmCollective::Announce(const Broadcast& broadcast) {
  Announcement& announcement = control_.page().ring[operation_ % ControlPage::kRing];
  announcement.device = broadcast.source->file().device;
  announcement.inode = broadcast.source->file().inode;
  announcement.offset = broadcast.source_offset;
  announcement.bytes = broadcast.bytes;
  announcement.root = rank_;
  const std::string& path = broadcast.source->path();
  std::memcpy(announcement.path, path.c_str(), path.size() + 1);
  announcement.sequence.store(operation_ + 1, std::memory_order_release);
  control_.page().announced.Ring();
}

void ShmCollective::Receive(const Broadcast& broadcast) {
  const Announcement& announcement = control_.page().ring[operation_ % ControlPage::kRing];
  const auto announced = [&] { return announcement.sequence.load(std::memory_order_acquire) == operation_ + 1; };
  WaitUntil(control_.page().announced, broadcast.deadline, announced,
            [&](uint32_t rank) { return rank == broadcast.root && !announced(); });
  if (announcement.root != broadcast.root || announcement.bytes != broadcast.bytes) {
    throw Failure("EPROTO", "broadcast " + std::to_string(operation_) + " is one of " +
                                std::to_string(broadcast.bytes) + " bytes from root " +
                                std::to_string(broadcast.root) + " on " + RankName(rank_) + ", but of " +
                                std::to_string(announcement.bytes) + " bytes from root " +
                                std::to_string(announcement.root) + " on the root");
  }
  if (broadcast.bytes > 0) {
    const std::shared_ptr<Mapping> source = OpenSource(announcement);
    source->CheckRange(announcement.offset, broadcast.bytes);
    CopyInto(broadcast, *source, announcement.offset);
  }
  // After the last byte was read: once the collective has ended, the root may have changed its source.
  std::atomic_thread_fence(std::memory_order_acquire);
  ThrowIfEnded();
  control_.rank(rank_).completed.store(operation_ + 1, std::memory_order_release);
  control_.page().completed.Ring();
}

std::shared_ptr<Mapping> ShmCollective::OpenSource(const Announcement& announcement) {
  const FileId file{static_cast<dev_t>(announcement.device), static_cast<ino_t>(announcement.inode)};
  try {
    return sources_.Open(announcement.path, file);
  } catch (const Failure&) {
    // Device memory of a dead root is removed by whoever next looks: then its death is what went wrong.
    CheckPeers([&](uint32_t rank) { return rank == announcement.root; });
    throw;
  }
}

void ShmCollective::CopyInto(const Broadcast& broadcast, const Mapping& source, uint64_t source_offset) {
  const Mapping& destination = *broadcast.destination;
  if (source.file() == destination.file()) {
    const uint64_t low = std::min(source_offset, broadcast.destination_offset);
    const uint64_t high = std::max(source_offset, broadcast.destination_offset);
    if (low == high) return;
    if (high - low < broadcast.bytes) {
      throw Failure("EINVAL", "source and destination of a broadcast overlap in " + source.path());
    }
  }
  for (uint64_t copied = 0; copied < broadcast.bytes; copied += kCopyStep) {
    ThrowIfEnded();
    StreamCopy(destination.data() + broadcast.destination_offset + copied, source.data() + source_offset + copied,
               std::min(kCopyStep, broadcast.bytes - copied));
  }
}

void ShmCollective::WaitForCompletion(uint64_t operations, double deadline) {
  const auto awaited = [&](uint32_t rank) {
    return rank != rank_ && control_.rank(rank).completed.load(std::memory_order_acquire) < operations;
  };
  const auto ready = [&] {
    for (uint32_t rank = 0; rank < control_.world_size(); rank++) {
      if (awaited(rank)) return false;
    }
    return true;
  };
  WaitUntil(control_.page().completed, deadline, ready, awaited);
}

template <class Ready, class Awaited>
void ShmCollective::WaitUntil(Bell& bell, double deadline, Ready ready, Awaited awaited) {
  double next_check = MonotonicMilliseconds() + kSliceMilliseconds;
  for (;;) {
    const uint32_t seen = bell.Count();
    ThrowIfEnded();
    if (ready()) return;
    const double now = MonotonicMilliseconds();
    if (now >= deadline) {
      uint32_t late = 0;
      while (late + 1 < control_.world_size() && !awaited(late)) late++;
      control_.End({Cause::kDeadline, static_cast<uint16_t>(rank_), static_cast<uint16_t>(late)});
      ThrowIfEnded();
    }
    if (now >= next_check) {
      CheckPeers(awaited);
      next_check = now + kSliceMilliseconds;
    }
    bell.Wait(seen, std::min(next_check, deadline) - now);
  }
}

template <class Awaited>
void ShmCollective::CheckPeers(Awaited awaited) {
  for (uint32_t rank = 0; rank < control_.world_size(); rank++) {
    if (!awaited(rank)) continue;
    const RankState& state = control_.rank(rank);
    const uint32_t phase = state.phase.load(std::memory_order_acquire);
    if (phase == RankState::kAbsent || phase == RankState::kJoining) continue;
    if (phase == RankState::kJoined && state.Process().IsAlive()) continue;
    // Asked again: it may have done its part between the first look and its end.
    if (!awaited(rank)) continue;
    control_.End({Cause::kPeerLost, static_cast<uint16_t>(rank_), static_cast<uint16_t>(rank)});
    ThrowIfEnded();
  }
}

void ShmCollective::ThrowIfEnded() {
  const Cause cause = control_.cause();
  if (cause.kind != Cause::kNone) throw FailureOf(cause);
}

Failure ShmCollective::FailureOf(const Cause& cause) const {
  const std::string operation = "broadcast " + std::to_string(operation_) + " on " + RankName(rank_) + ": ";
  const std::string reporter = RankName(cause.reporter);
  const std::string subject = RankName(cause.subject);
  switch (cause.kind) {
    case Cause::kPeerLost:
      return Failure(code::kPeerLost, operation + subject + " is gone (noticed by " + reporter + ")");
    case Cause::kDeadline:
      return Failure(code::kDeadline, operation + reporter + " waited for " + subject + " until its deadline");
    case Cause::kFailed:
      return Failure(code::kAborted, operation + reporter + " failed");
    default:
      return Failure(code::kAborted, operation + "aborted by " + reporter);
  }
}

}  // namespace weightcast
