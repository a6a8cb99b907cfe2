#include "collective/shm_collective.h"

#include <atomic>
#include <utility>

#include "system/faults.h"
#include "system/threads.h"

namespace weightcast {

ShmCollective::ShmCollective(const std::string& path, uint32_t rank, uint32_t world_size,
                             std::shared_ptr<OpenedMemory> opened)
    : rank_(rank),
      world_size_(world_size),
      opened_(std::move(opened)),
      membership_(std::make_unique<Membership>(path, rank, world_size)),
      check_([this] { membership_->ThrowIfEnded(); }) {
  thread_ = StartThread("weightcast-coll", [this] { RunThread(); });
}

ShmCollective::~ShmCollective() { Close(); }

void ShmCollective::Submit(Broadcast broadcast) {
  CheckArguments(broadcast);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) throw Failure(code::kClosed, "the collective is closed");
  CheckQueue(queue_.size());
  queue_.push_back(std::move(broadcast));
  submitted_.notify_one();
}

void ShmCollective::CheckArguments(const Broadcast& broadcast) const {
  CheckRoot(broadcast.root, rank_, world_size_, broadcast.copy->has_source());
}

void ShmCollective::Abort() {
  if (!membership_) return;
  membership_->End(Cause::kAborted);
  const std::lock_guard<std::mutex> lock(mutex_);
  close_pending_ = true;
  submitted_.notify_one();
}

void ShmCollective::Close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(closed_, true)) return;
    if (executing_ || !queue_.empty()) membership_->End(Cause::kAborted);
    submitted_.notify_one();
  }
  thread_.join();
  opened_.reset();
  membership_.reset();
}

void ShmCollective::RunThread() {
  while (const std::optional<Broadcast> broadcast = Take()) {
    Outcome outcome;
    outcome.interval.started_at = MonotonicMilliseconds();
    outcome.failure = Execute(*broadcast);
    outcome.interval.ended_at = MonotonicMilliseconds();
    operation_++;
    const std::lock_guard<std::mutex> lock(mutex_);
    // Together with `done`, whose receiver may close the collective: that must not be an abort then.
    executing_ = false;
    broadcast->done(outcome);
  }
}

std::optional<Broadcast> ShmCollective::Take() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (queue_.empty() && !closed_) {
    if (std::exchange(close_pending_, false)) opened_->CloseAll();
    submitted_.wait(lock, [this] { return closed_ || close_pending_ || !queue_.empty(); });
  }
  if (queue_.empty()) return std::nullopt;
  std::optional<Broadcast> broadcast = std::move(queue_.front());
  queue_.pop_front();
  executing_ = true;
  return broadcast;
}

std::optional<Failure> ShmCollective::Execute(const Broadcast& broadcast) {
  std::optional<Failure> failure;
  try {
    membership_->Begin(operation_, "broadcast " + std::to_string(operation_));
    membership_->ThrowIfEnded();
    if (broadcast.root == rank_) {
      Send(broadcast);
    } else {
      Receive(broadcast);
    }
    return std::nullopt;
  } catch (...) {
    failure = CurrentFailure();
  }
  // Does nothing if what was thrown is the end of the collective itself.
  membership_->End(Cause::kFailed);
  opened_->CloseAll();
  return failure;
}

void ShmCollective::Send(const Broadcast& broadcast) {
  // The announcement's last user must be done with it: its receivers, and its root that may still count them.
  if (operation_ >= ControlPage::kRing) {
    WaitForCompletion(operation_ - ControlPage::kRing + 1, broadcast.deadline);
  }
  Announce(broadcast);
  faults::StrikeOrThrow(faults::Point::kBroadcast);
  broadcast.copy->CopyOwn(check_);
  WaitForCompletion(operation_ + 1, broadcast.deadline);
  membership_->Complete(operation_);
}

void ShmCollective::Announce(const Broadcast& broadcast) {
  Announcement& announcement = membership_->page().ring[operation_ % ControlPage::kRing];
  announcement.bytes = broadcast.copy->bytes();
  announcement.root = rank_;
  announcement.close_opened = broadcast.close_opened;
  broadcast.copy->Announce(announcement);
  announcement.sequence.store(operation_ + 1, std::memory_order_release);
  membership_->page().announced.Notify();
}

void ShmCollective::Receive(const Broadcast& broadcast) {
  const Announcement& announcement = membership_->page().ring[operation_ % ControlPage::kRing];
  const auto announced = [&] { return announcement.sequence.load(std::memory_order_acquire) == operation_ + 1; };
  membership_->WaitUntil(membership_->page().announced, broadcast.deadline, announced,
                         [&](uint32_t rank) { return rank == broadcast.root && !announced(); });
  const uint64_t bytes = broadcast.copy->bytes();
  if (announcement.root != broadcast.root || announcement.bytes != bytes) {
    throw Failure("EPROTO", "broadcast " + std::to_string(operation_) + " is one of " + std::to_string(bytes) +
                                " bytes from root " + std::to_string(broadcast.root) + " on " + RankName(rank_) +
                                ", but of " + std::to_string(announcement.bytes) + " bytes from root " +
                                std::to_string(announcement.root) + " on the root");
  }
  faults::StrikeOrThrow(faults::Point::kBroadcast);
  if (bytes > 0) CopyAnnounced(broadcast, announcement);
  // After the last byte was read: once the collective has ended, the root may have changed its source.
  std::atomic_thread_fence(std::memory_order_acquire);
  membership_->ThrowIfEnded();
  // Before the root sees that this rank is done: it may free its memory then.
  if (announcement.close_opened != 0) opened_->Close(announcement);
  membership_->Complete(operation_);
}

void ShmCollective::CopyAnnounced(const Broadcast& broadcast, const Announcement& announcement) {
  try {
    broadcast.copy->CopyAnnounced(announcement, check_);
  } catch (const Failure&) {
    // The next process to look removes the memory of a dead root: then its death is the cause to report.
    membership_->CheckPeers([&](uint32_t rank) { return rank == announcement.root; });
    throw;
  }
}

void ShmCollective::WaitForCompletion(uint64_t operations, double deadline) {
  const auto awaited = [&](uint32_t rank) { return rank != rank_ && membership_->Completed(rank) < operations; };
  const auto ready = [&] {
    for (uint32_t rank = 0; rank < world_size_; rank++) {
      if (awaited(rank)) return false;
    }
    return true;
  };
  membership_->WaitUntil(membership_->page().completed, deadline, ready, awaited);
}

}  // namespace weightcast
