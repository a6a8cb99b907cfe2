#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "memory/mapping.h"
#include "system/base.h"

namespace weightcast {

/// Cuts items of known sizes, laid end to end, into pieces of equal bytes. A large item is spread over many pieces
/// and a piece holds many small items, so that neither costs the threads more than its bytes.
class Partition {
 public:
  /// Aims at four pieces a thread within 256 KiB and 4 MiB each.
  Partition(const std::vector<uint64_t>& sizes, unsigned threads);

  /// At least one, which may be empty.
  size_t pieces() const { return pieces_; }
  uint64_t total() const { return ends_.empty() ? 0 : ends_.back(); }

  /// Calls visit(item, offset in the item, bytes), in order, for what belongs to the piece.
  template <class Visit>
  void ForEachItem(size_t piece, Visit visit) const {
    uint64_t position = piece * piece_bytes_;
    const uint64_t end = std::min(total(), position + piece_bytes_);
    size_t item = std::upper_bound(ends_.begin(), ends_.end(), position) - ends_.begin();
    for (; position < end; item++) {
      const uint64_t start = item == 0 ? 0 : ends_[item - 1];
      const uint64_t bytes = std::min(end, ends_[item]) - position;
      if (bytes > 0) visit(item, position - start, bytes);
      position += bytes;
    }
  }

 private:
  /// Where each item ends when they are laid end to end.
  std::vector<uint64_t> ends_;
  uint64_t piece_bytes_;
  size_t pieces_;
};

/// Adds to a progress counter: a double that JavaScript reads as an element of a Float64Array. Several threads may add
/// at once. Does nothing for null.
inline void AddTo(double* counter, uint64_t bytes) {
  if (counter == nullptr) return;
  static_assert(sizeof(double) == sizeof(uint64_t));
  auto* const word = reinterpret_cast<uint64_t*>(counter);
  uint64_t before = __atomic_load_n(word, __ATOMIC_RELAXED);
  uint64_t after;
  do {
    double value;
    std::memcpy(&value, &before, sizeof(value));
    value += static_cast<double>(bytes);
    std::memcpy(&after, &value, sizeof(after));
  } while (!__atomic_compare_exchange_n(word, &before, after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

/// Bytes of a file that a job touches.
struct Span {
  FileId file;
  uint64_t begin;
  uint64_t end;
  bool written;
};

/// Bulk work cut into pieces that any threads may run in any order, also at the same time.
class Job {
 public:
  virtual ~Job() = default;

  /// At least one; does not change.
  virtual size_t pieces() const = 0;
  /// What the job touches in mapped files; may be a hull around it. Does not change.
  virtual const std::vector<Span>& spans() const = 0;
  /// Called at most once for each piece. A throw fails the job; the pieces not yet begun are left out.
  virtual void Run(size_t piece) = 0;
};

/// Threads that run one queue of jobs, each job on all of them.
///
/// Order: jobs begin in the order they were submitted and end as they are done. A job that touches bytes of a mapped
/// file that an unfinished earlier one touches, where either writes, begins only after that one has been reported.
/// Threads that find no more pieces of a job go on to the next job while the others finish it. A file that a job reads
/// by path counts as no mapped file here.
///
/// The pool drops its reference to a job before it calls its `done`: a caller that then closes a mapping frees the
/// memory.
///
/// Safe among threads. `done` of a job is called under the pool's lock, and destroyed outside it.
class ThreadPool {
 public:
  explicit ThreadPool(unsigned threads);
  /// As Stop().
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  unsigned threads() const { return static_cast<unsigned>(threads_.size()); }

  /// Throws CLOSED after Close().
  void Submit(std::shared_ptr<Job> job, Done done);
  /// Takes no more jobs; the threads end after those already submitted. Does not wait.
  void Close();
  /// Ends the threads after the pieces they are in, and waits for them. Jobs not finished by then are dropped.
  void Stop();

 private:
  struct Entry {
    std::shared_ptr<Job> job;
    /// Those of the job, which is destroyed before the entry leaves the queue.
    std::vector<Span> spans;
    size_t pieces = 0;
    Done done;
    size_t next_piece = 0;
    size_t running = 0;
    Outcome outcome;

    bool IsClaimed() const { return next_piece == pieces; }
    bool HasEnded() const { return IsClaimed() && running == 0; }
  };

  void RunThread();
  /// The entry whose next piece may run now; null if there is none. All of these expect the lock to be held.
  std::shared_ptr<Entry> NextEntry();
  bool MustWait(size_t index) const;
  void RunPiece(Entry& entry, std::unique_lock<std::mutex>& lock);
  void Finish(std::shared_ptr<Entry> entry, std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable changed_;
  /// Those not reported yet, in the order they were submitted.
  std::deque<std::shared_ptr<Entry>> queue_;
  bool closed_ = false;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace weightcast
