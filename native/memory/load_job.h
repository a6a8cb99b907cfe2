#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "memory/load_resources.h"
#include "memory/load_source.h"
#include "memory/mapping.h"
#include "memory/read_plan.h"
#include "memory/source_file.h"
#include "memory/tensor_digests.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// Reads ranges of files into a mapping, and digests tensors of that mapping as their bytes come. Each piece is one read: as
/// many are under way as the pool has threads, which mostly wait for the storage. Opens a file on a thread of the pool, because
/// that can take long too. Fails with FILE_ENDED if a file is shorter than a range, or gets shorter meanwhile.
class LoadJob : public Job {
 public:
  /// `tensors`: those to digest, in the order of their places in the destination. `progress` counts the bytes read so far:
  /// the caller keeps it alive until the job is done or dropped, and otherwise only reads it. Throws OUT_OF_RANGE, also if
  /// the ranges do not bring all bytes of the tensors, or EACCES for the destination.
  LoadJob(std::vector<std::unique_ptr<LoadSource>> sources, std::shared_ptr<Mapping> destination,
          std::vector<TensorPlace> tensors, double* progress, std::shared_ptr<LoadResources> resources);

  size_t pieces() const override;
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

  /// One for each tensor. To be called after the last piece has run.
  std::vector<uint64_t> Digests() const { return digests_.Result(); }

 private:
  /// What a thread works on.
  struct Piece {
    const ReadPlan& plan;
    SourceFile& file;
    /// What is left of it.
    ReadRequest request;
    /// Of LoadResources.
    uint8_t* buffer;
  };

  void Load(Piece piece);
  /// As much of the request as the page cache has, from its begin.
  void CopyCached(Piece& piece);
  void ReadDirect(const Piece& piece);
  /// False if the request has to go through the buffer, because its place in memory is not aligned as its place in the file.
  bool ReadInPlace(const Piece& piece);
  void ReadThroughCache(const Piece& piece);
  /// Bytes `begin` to `end` of the file have come: takes them to their places.
  void Deliver(const Piece& piece, uint64_t begin, uint64_t end, const uint8_t* data);
  void DeliverBlock(const Piece& piece, uint64_t begin, uint64_t end, const uint8_t* data);

  const std::vector<std::unique_ptr<LoadSource>> sources_;
  /// Where the pieces of each source end.
  std::vector<size_t> ends_;
  const std::shared_ptr<Mapping> destination_;
  TensorDigests digests_;
  double* const progress_;
  const std::shared_ptr<LoadResources> resources_;
  std::vector<Span> spans_;
};

}  // namespace weightcast
