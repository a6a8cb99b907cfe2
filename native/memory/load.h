#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "memory/mapping.h"
#include "memory/partition.h"
#include "memory/thread_pool.h"
#include "system/unique_fd.h"

namespace weightcast {

struct FileRange {
  uint64_t file_offset;
  uint64_t destination_offset;
  uint64_t bytes;
};

/// Reads ranges of a file into a mapping with pread(2). Opens the file on a thread of the pool, because that can
/// take long too. Fails with FILE_ENDED if the file is shorter than a range, or gets shorter meanwhile.
class LoadJob : public Job {
 public:
  /// `progress` counts the bytes read so far. The caller keeps it alive until the job is done or dropped, and
  /// otherwise only reads it. Throws OUT_OF_RANGE or EACCES for the destination.
  LoadJob(std::string path, std::shared_ptr<Mapping> destination, std::vector<FileRange> ranges, double* progress,
          unsigned threads);

  size_t pieces() const override { return partition_.pieces(); }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

 private:
  /// Opens and checks the file unless an earlier call has.
  void EnsureOpen();
  void Read(uint64_t file_offset, uint8_t* destination, uint64_t bytes);
  /// `error` 0 is the file's end.
  [[noreturn]] void Fail(int error, uint64_t file_offset) const;

  const std::string path_;
  const std::shared_ptr<Mapping> destination_;
  const std::vector<FileRange> ranges_;
  double* const progress_;
  const Partition partition_;
  std::vector<Span> spans_;

  std::mutex mutex_;
  UniqueFd file_;
};

}  // namespace weightcast
