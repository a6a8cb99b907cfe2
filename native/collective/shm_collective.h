#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "collective/control_file.h"
#include "collective/source_cache.h"
#include "memory/mapping.h"
#include "system/outcome.h"

namespace weightcast {

/// One broadcast, as one rank sees it.
struct Broadcast {
  uint32_t root = 0;
  /// On the root only.
  std::shared_ptr<Mapping> source;
  uint64_t source_offset = 0;
  std::shared_ptr<Mapping> destination;
  uint64_t destination_offset = 0;
  uint64_t bytes = 0;
  /// In milliseconds of MonotonicMilliseconds().
  double deadline = 0;
  Done done;
};

/// Broadcast among ranks of one host through shared memory: the root announces where its source lies, each receiver
/// maps that file and copies from it.
///
/// Every rank gives the same broadcasts in the same order; a thread of its own runs them in that order. The first
/// operation that fails on any rank ends the collective on all ranks, with the same cause, because a rank that
/// has left out an operation would be out of step for ever. A rank that waits notices within about 100 ms that one
/// it waits for has died or left.
///
/// Give, Abort and Close are called from one thread at a time. `done` of a broadcast runs on the collective's thread.
class ShmCollective {
 public:
  /// Throws EEXIST if the rank has joined before, EINVAL if others think of another world size.
  ShmCollective(const std::string& path, uint32_t rank, uint32_t world_size);
  /// As Close().
  ~ShmCollective();
  ShmCollective(const ShmCollective&) = delete;
  ShmCollective& operator=(const ShmCollective&) = delete;

  /// Throws CLOSED, OUT_OF_RANGE, EACCES or EINVAL, and then has given nothing.
  void Give(Broadcast broadcast);
  /// Ends the operations in flight on all ranks with ABORTED; later ones fail at once.
  void Abort();
  /// Leaves. If operations given here are not complete, that aborts the collective; otherwise the other ranks are
  /// not disturbed until they need this one. Waits for the thread, which takes milliseconds.
  void Close();

 private:
  void CheckArguments(const Broadcast& broadcast) const;
  void RunThread();
  /// Waits for the next operation; nothing once the collective is closed and the queue empty.
  std::optional<Broadcast> Take();
  /// Runs one operation. Has ended the collective if it returns a failure.
  std::optional<Failure> Execute(const Broadcast& broadcast);
  void Send(const Broadcast& broadcast);
  void Receive(const Broadcast& broadcast);
  void Announce(const Broadcast& broadcast);
  std::shared_ptr<Mapping> OpenSource(const Announcement& announcement);
  void CopyInto(const Broadcast& broadcast, const Mapping& source, uint64_t source_offset);

  /// Sleeps on the bell until ready(). `awaited(rank)` tells whether a rank's part is still missing.
  template <class Ready, class Awaited>
  void WaitUntil(Bell& bell, double deadline, Ready ready, Awaited awaited);
  template <class Awaited>
  void CheckPeers(Awaited awaited);
  /// Waits until all other ranks have completed `operations` operations.
  void WaitForCompletion(uint64_t operations, double deadline);
  void ThrowIfEnded();
  Failure FailureOf(const Cause& cause) const;

  const uint32_t rank_;
  ControlFile control_;
  SourceCache sources_;
  /// Number of the operation in hand; only the thread uses it.
  uint64_t operation_ = 0;

  std::mutex mutex_;
  std::condition_variable given_;
  std::deque<Broadcast> queue_;
  /// Whether the thread is in an operation that it has taken from the queue.
  bool executing_ = false;
  std::atomic<bool> closed_{false};
  std::thread thread_;
};

}  // namespace weightcast
