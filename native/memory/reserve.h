#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/mapping.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// Brings the pages of a mapping that Mapping::CreateEmpty() made. When it has succeeded they are all there, in this
/// process's page table too; a file system that is full fails it with ENOSPC, and never ends in a signal.
///
/// Huge pages if they can be had: they come many times as fast as small ones, for which all threads compete for the
/// file's index, and are page-locked twice as fast.
class ReserveJob : public Job {
 public:
  /// `progress` counts the bytes so far, if it is not null. The caller keeps it alive until the job is done or dropped.
  /// Throws EACCES.
  ReserveJob(std::shared_ptr<Mapping> mapping, double* progress);

  size_t pieces() const override;
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

 private:
  /// Puts huge pages under a range whose pages are not there yet. False if it has not got them for all of it.
  bool ReserveHuge(uint64_t offset, uint64_t bytes) const;
  void ReserveSmall(uint64_t offset, uint64_t bytes) const;
  /// For kernels before 5.14.
  void ReserveInFile(uint64_t offset, uint64_t bytes) const;

  const std::shared_ptr<Mapping> mapping_;
  double* const progress_;
  const std::vector<Span> spans_;
  /// Cleared by the first piece that gets none: memory is in pieces, or the kernel makes none of them.
  std::atomic<bool> huge_{true};
};

}  // namespace weightcast
