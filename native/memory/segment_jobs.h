#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/mapping.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// Allocates pages of a mapping that Mapping::CreateEmpty() made. When it has succeeded all are present, in this
/// process's page table too; a full file system fails it with ENOSPC, and never ends in a signal.
///
/// Huge pages where possible: they are allocated many times as fast as small ones, for which all threads compete for the
/// file's index, and are page-locked twice as fast.
class ReserveJob : public Job {
 public:
  /// Those of `offset .. offset + bytes`; huge pages need an offset that is a multiple of theirs. `progress` counts the bytes
  /// so far, if it is not null. The caller keeps it alive until the job is done or dropped. Throws EACCES or OUT_OF_RANGE.
  ReserveJob(std::shared_ptr<Mapping> mapping, uint64_t offset, uint64_t bytes, double* progress);

  size_t pieces() const override;
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

 private:
  /// Allocates huge pages for a range without pages. False if some of it has none.
  bool ReserveHuge(uint64_t offset, uint64_t bytes) const;
  void ReserveSmall(uint64_t offset, uint64_t bytes) const;
  /// For kernels before 5.14.
  void ReserveInFile(uint64_t offset, uint64_t bytes) const;

  const std::shared_ptr<Mapping> mapping_;
  const uint64_t offset_;
  const uint64_t bytes_;
  double* const progress_;
  const std::vector<Span> spans_;
  /// Cleared by the first piece that gets none: memory is fragmented, or the kernel makes none.
  std::atomic<bool> huge_{true};
};

/// A tensor in the memory of this process, and where it goes in the destination.
struct TensorWrite {
  const uint8_t* source;
  uint64_t bytes;
  uint64_t offset;
};

/// Copies whole tensors into a mapping and digests them on the way, which costs little more than the copy: the bytes
/// that the digest has brought into the cache are copied from there.
class WriteJob : public Job {
 public:
  /// The caller keeps the sources alive and unchanged until the job is done or dropped, and `progress` too, which
  /// counts the bytes so far. Throws OUT_OF_RANGE or EACCES.
  WriteJob(std::vector<TensorWrite> tensors, std::shared_ptr<Mapping> destination, double* progress, unsigned threads);

  size_t pieces() const override { return partition_.pieces(); }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

  /// One for each tensor. To be called after the last piece has run.
  std::vector<uint64_t> Digests() const { return {digests_.begin(), digests_.end()}; }

 private:
  const std::vector<TensorWrite> tensors_;
  const std::shared_ptr<Mapping> destination_;
  double* const progress_;
  const Partition partition_;
  std::vector<Span> spans_;
  /// Sums so far: several threads may be in one tensor.
  std::vector<std::atomic<uint64_t>> digests_;
};

}  // namespace weightcast
