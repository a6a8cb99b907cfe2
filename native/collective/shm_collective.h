#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "collective/broadcast_copy.h"
#include "collective/membership.h"
#include "system/base.h"

namespace weightcast {

/// One broadcast, as one rank of a host sees it.
struct Broadcast {
  uint32_t root = 0;
  /// In milliseconds of MonotonicMilliseconds().
  double deadline = 0;
  /// On the root: the others close what they have open of its memory before they are done.
  bool close_opened = false;
  std::unique_ptr<BroadcastCopy> copy;
  Done done;
};

/// Broadcast among ranks of one host, agreed upon through shared memory: the root announces where its source lies, each
/// receiver opens that memory and copies from it. A BroadcastCopy does the opening and copying, so the same protocol
/// serves the memory of the host and that of CUDA devices.
///
/// Every rank gives the same broadcasts in the same order; a thread of its own runs them in that order. The first
/// operation that fails on any rank ends the collective on all ranks, with the same cause, because a rank that
/// has left out an operation would be out of step for ever. A rank that waits notices within about 100 ms that one
/// it waits for has died or left.
///
/// Submit, Abort and Close are called from one thread at a time. `done` of a broadcast runs on the collective's thread.
class ShmCollective {
 public:
  /// `opened` is what the copies of its broadcasts open other ranks' memory with. Throws EEXIST if the rank has joined
  /// before, EINVAL if others think of another world size.
  ShmCollective(const std::string& path, uint32_t rank, uint32_t world_size, std::shared_ptr<OpenedMemory> opened);
  /// As Close().
  ~ShmCollective();
  ShmCollective(const ShmCollective&) = delete;
  ShmCollective& operator=(const ShmCollective&) = delete;

  /// Throws CLOSED, OVERLOADED, OUT_OF_RANGE or EINVAL, and then has submitted nothing.
  void Submit(Broadcast broadcast);
  /// Ends the operations in flight on all ranks with ABORTED; later ones fail at once.
  void Abort();
  /// Leaves. If operations submitted here are not complete, that aborts the collective; otherwise the other ranks are
  /// not disturbed until they need this one. Waits for the thread, which takes milliseconds.
  void Close();

 private:
  void CheckArguments(const Broadcast& broadcast) const;
  void RunThread();
  /// Waits for the next operation; nothing when the collective is closed and the queue empty. Closes all opened memory
  /// after an abort.
  std::optional<Broadcast> Take();
  /// Runs one operation. Has ended the collective if it returns a failure.
  std::optional<Failure> Execute(const Broadcast& broadcast);
  void Send(const Broadcast& broadcast);
  void Receive(const Broadcast& broadcast);
  void Announce(const Broadcast& broadcast);
  void CopyAnnounced(const Broadcast& broadcast, const Announcement& announcement);
  /// Waits until all other ranks have completed `operations` operations.
  void WaitForCompletion(uint64_t operations, double deadline);

  const uint32_t rank_;
  const uint32_t world_size_;
  /// Null once closed.
  std::shared_ptr<OpenedMemory> opened_;
  /// Null once closed.
  std::unique_ptr<Membership> membership_;
  const BroadcastCopy::Check check_;
  /// Number of the current operation; only the thread uses it.
  uint64_t operation_ = 0;

  std::mutex mutex_;
  std::condition_variable submitted_;
  std::deque<Broadcast> queue_;
  /// Whether the thread is in an operation that it has taken from the queue.
  bool executing_ = false;
  bool closed_ = false;
  /// Aborted here, and the opened memory is not closed yet.
  bool close_pending_ = false;
  std::thread thread_;
};

}  // namespace weightcast
