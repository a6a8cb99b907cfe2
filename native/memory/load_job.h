#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "memory/load_resources.h"
#include "memory/mapping.h"
#include "memory/read_plan.h"
#include "memory/source_file.h"
#include "memory/tensor_digests.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// Reads ranges of a file into a mapping, and digests tensors of that mapping as their bytes come. Each piece is one read: as
/// many are under way as the pool has threads, which mostly wait for the storage. Opens the file on a thread of the pool,
/// because that can take long too. Fails with FILE_ENDED if the file is shorter than a range, or gets shorter meanwhile.
class LoadJob : public Job {
 public:
  /// `tensors`: those to digest, in the order of their places in the destination. `progress` counts the bytes read so far:
  /// the caller keeps it alive until the job is done or dropped, and otherwise only reads it. Throws OUT_OF_RANGE, or EACCES
  /// for the destination.
  LoadJob(std::string path, std::shared_ptr<Mapping> destination, std::vector<FileRange> ranges,
          std::vector<TensorPlace> tensors, double* progress, std::shared_ptr<LoadResources> resources);

  size_t pieces() const override;
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

  /// One for each tensor. To be called after the last piece has run.
  std::vector<uint64_t> Digests() const { return digests_.Result(); }

 private:
  /// Opens and checks the file unless an earlier call has.
  SourceFile& OpenFile();
  /// Copies as much of a request as the page cache has, from its begin. Returns where that ends.
  uint64_t CopyCached(const SourceFile& file, const ReadRequest& request, uint8_t* buffer);
  void ReadDirect(SourceFile& file, const ReadRequest& request, uint8_t* buffer);
  /// False if the request has to go through a buffer, because its place in memory is not aligned as its place in the file.
  bool ReadInPlace(SourceFile& file, const ReadRequest& request, uint8_t* buffer);
  void ReadThroughCache(SourceFile& file, const ReadRequest& request, uint8_t* buffer);
  /// Bytes `begin` to `end` of the file have come: takes them to their places.
  void Deliver(const ReadRequest& request, uint64_t begin, uint64_t end, const uint8_t* data);
  void DeliverBlock(const ReadRequest& request, uint64_t begin, uint64_t end, const uint8_t* data);

  const std::string path_;
  const std::shared_ptr<Mapping> destination_;
  const std::vector<FileRange> ranges_;
  const ReadPlan plan_;
  TensorDigests digests_;
  double* const progress_;
  const std::shared_ptr<LoadResources> resources_;
  std::vector<Span> spans_;

  std::mutex mutex_;
  std::optional<SourceFile> file_;
};

}  // namespace weightcast
