#include "memory/thread_pool.h"

#include <algorithm>
#include <utility>

#include "system/threads.h"

namespace weightcast {
namespace {

constexpr uint64_t kSmallestPiece = uint64_t{256} << 10;
constexpr uint64_t kLargestPiece = uint64_t{4} << 20;
constexpr uint64_t kPage = 4096;

}  // namespace

Partition::Partition(const std::vector<uint64_t>& sizes, unsigned threads) {
  ends_.reserve(sizes.size());
  uint64_t end = 0;
  for (const uint64_t size : sizes) ends_.push_back(end += size);
  const uint64_t wanted = std::clamp(end / (uint64_t{4} * threads), kSmallestPiece, kLargestPiece);
  piece_bytes_ = (wanted + kPage - 1) / kPage * kPage;
  pieces_ = std::max<uint64_t>(1, (end + piece_bytes_ - 1) / piece_bytes_);
}

namespace {

bool Conflict(const Span& left, const Span& right) {
  return (left.written || right.written) && left.file == right.file && left.begin < right.end && right.begin < left.end;
}

bool Conflict(const std::vector<Span>& left, const std::vector<Span>& right) {
  for (const Span& one : left) {
    for (const Span& other : right) {
      if (Conflict(one, other)) return true;
    }
  }
  return false;
}

}  // namespace

ThreadPool::ThreadPool(unsigned threads) {
  threads_.reserve(threads);
  try {
    while (threads_.size() < threads) {
      threads_.push_back(StartThread("weightcast-pool", [this] { RunThread(); }));
    }
  } catch (...) {
    Stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Submit(std::shared_ptr<Job> job, Done done) {
  auto entry = std::make_shared<Entry>();
  entry->pieces = job->pieces();
  entry->spans = job->spans();
  entry->job = std::move(job);
  entry->done = std::move(done);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) throw Failure(code::kClosed, "the thread pool is closed");
  queue_.push_back(std::move(entry));
  changed_.notify_all();
}

void ThreadPool::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void ThreadPool::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    stopped_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
  queue_.clear();
}

void ThreadPool::RunThread() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopped_ && !(closed_ && queue_.empty())) {
    std::shared_ptr<Entry> entry = NextEntry();
    if (!entry) {
      changed_.wait(lock);
      continue;
    }
    RunPiece(*entry, lock);
    if (entry->HasEnded() && !stopped_) Finish(std::move(entry), lock);
  }
}

std::shared_ptr<ThreadPool::Entry> ThreadPool::NextEntry() {
  // Every claimed entry has a thread in it, so this looks at few.
  for (size_t index = 0; index < queue_.size(); index++) {
    if (queue_[index]->IsClaimed()) continue;
    return MustWait(index) ? nullptr : queue_[index];
  }
  return nullptr;
}

bool ThreadPool::MustWait(size_t index) const {
  for (size_t earlier = 0; earlier < index; earlier++) {
    if (Conflict(queue_[earlier]->spans, queue_[index]->spans)) return true;
  }
  return false;
}

void ThreadPool::RunPiece(Entry& entry, std::unique_lock<std::mutex>& lock) {
  const size_t piece = entry.next_piece++;
  if (piece == 0) entry.outcome.interval.started_at = MonotonicMilliseconds();
  entry.running++;
  lock.unlock();
  std::optional<Failure> failure;
  try {
    entry.job->Run(piece);
  } catch (...) {
    failure = CurrentFailure();
  }
  lock.lock();
  entry.running--;
  if (!failure) return;
  if (!entry.outcome.failure) entry.outcome.failure = std::move(failure);
  entry.next_piece = entry.pieces;
}

void ThreadPool::Finish(std::shared_ptr<Entry> entry, std::unique_lock<std::mutex>& lock) {
  entry->outcome.interval.ended_at = MonotonicMilliseconds();
  std::shared_ptr<Job> job = std::move(entry->job);
  // It may hold the last reference to a mapping, and unmapping takes long: not under the lock.
  lock.unlock();
  job.reset();
  lock.lock();
  if (stopped_) return;
  entry->done(entry->outcome);
  queue_.erase(std::find(queue_.begin(), queue_.end(), entry));
  changed_.notify_all();
  lock.unlock();
  entry.reset();
  lock.lock();
}

}  // namespace weightcast
