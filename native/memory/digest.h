#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/copy.h"
#include "memory/mapping.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// The digest of a tensor.
///
///   digest = sum over i of (w[i] ^ s) * m(i)   mod 2^64
///
/// where w[i] are the tensor's bytes as little-endian 64-bit words, the last one padded with zero bytes;
/// s = 0x5745494748544341, the letters "WEIGHTCA"; and m(i) = splitmix64(i) | 1 with
///
///   splitmix64(i):  z = i + 0x9e3779b97f4a7c15
///                   z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
///                   z = (z ^ (z >> 27)) * 0x94d049bb133111eb
///                   z ^ (z >> 31)
///
/// A tensor of no bytes has digest 0. Each m(i) is odd and so invertible: a change of any single word changes the
/// digest. It guards against accidents, not against attackers.
///
/// (w ^ s) is the sum over the word's bytes k of ((b[k] ^ s[k]) << 8k), so the digest is a sum over bytes as well: a
/// part of a tensor has the partial digest that is the sum over its bytes, the byte at position p of the tensor
/// counting as byte k = p mod 8 of word i = p / 8. The part with the tensor's last byte also counts the padding. The
/// digests of parts that make up a tensor, each byte in one part, sum up to the tensor's digest.
///
/// Partial digest of `bytes` bytes that stand at `position` in their tensor, without padding.
uint64_t DigestBytes(const uint8_t* data, uint64_t bytes, uint64_t position);

/// Fits into the cache of a core, so that what was just digested is copied from there, and is long enough for StreamCopy() to
/// write around it.
constexpr uint64_t kDigestBlock = uint64_t{256} << 10;

/// What the zero bytes after the last byte of a tensor of `tensor_bytes` bytes add.
uint64_t DigestPadding(uint64_t tensor_bytes);

/// A rectangle of a tensor's bytes and where it lies in a mapping.
struct TensorPart {
  uint64_t offset;
  uint64_t row_bytes;
  uint64_t rows;
  uint64_t pitch;
  /// Of the part's first byte in the tensor.
  uint64_t tensor_offset;
  uint64_t tensor_pitch;
  uint64_t tensor_bytes;

  Rectangle InMapping() const { return {offset, row_bytes, rows, pitch}; }
  Rectangle InTensor() const { return {tensor_offset, row_bytes, rows, tensor_pitch}; }
};

/// The parts, with rows that are a run both in memory and in the tensor as one row. Throws OUT_OF_RANGE unless all lie
/// in memory of `bytes` bytes and in their tensors.
std::vector<TensorPart> CheckedParts(std::vector<TensorPart> parts, uint64_t bytes);

/// What a part's sum starts from: the padding, if the tensor's last byte is in the part.
uint64_t DigestStart(const TensorPart& part);

class DigestJob : public Job {
 public:
  /// `progress` counts the bytes so far, if it is not null. The caller keeps it alive until the job is done or dropped.
  /// Throws OUT_OF_RANGE.
  DigestJob(std::shared_ptr<Mapping> mapping, std::vector<TensorPart> parts, double* progress, unsigned threads);

  size_t pieces() const override { return partition_.pieces(); }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override;

  /// One digest for each part. To be called after the last piece has run.
  std::vector<uint64_t> Result() const;

 private:
  const std::shared_ptr<Mapping> mapping_;
  const std::vector<TensorPart> parts_;
  double* const progress_;
  const Partition partition_;
  std::vector<Span> spans_;
  /// Sums so far: several threads may be in one part.
  std::vector<std::atomic<uint64_t>> digests_;
};

}  // namespace weightcast
