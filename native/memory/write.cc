#include "memory/write.h"

#include <algorithm>
#include <utility>

#include "memory/digest.h"
#include "memory/progress_counter.h"
#include "memory/stream_copy.h"

namespace weightcast {
namespace {

/// Fits into the cache of a core, and is long enough for StreamCopy() to write around that.
constexpr uint64_t kBlockBytes = uint64_t{256} << 10;

std::vector<uint64_t> SizesOf(const std::vector<TensorWrite>& tensors) {
  std::vector<uint64_t> sizes;
  sizes.reserve(tensors.size());
  for (const TensorWrite& tensor : tensors) sizes.push_back(tensor.bytes);
  return sizes;
}

}  // namespace

WriteJob::WriteJob(std::vector<TensorWrite> tensors, std::shared_ptr<Mapping> destination, double* progress,
                   unsigned threads)
    : tensors_(std::move(tensors)),
      destination_(std::move(destination)),
      progress_(progress),
      partition_(SizesOf(tensors_), threads),
      digests_(tensors_.size()) {
  destination_->CheckWritable();
  Span written{destination_->file(), UINT64_MAX, 0, true};
  for (size_t index = 0; index < tensors_.size(); index++) {
    const TensorWrite& tensor = tensors_[index];
    destination_->CheckRange(tensor.offset, tensor.bytes);
    digests_[index] = DigestPadding(tensor.bytes);
    if (tensor.bytes == 0) continue;
    written.begin = std::min(written.begin, tensor.offset);
    written.end = std::max(written.end, tensor.offset + tensor.bytes);
  }
  spans_ = {written};
}

void WriteJob::Run(size_t piece) {
  partition_.ForEachItem(piece, [this](size_t index, uint64_t offset, uint64_t bytes) {
    const TensorWrite& tensor = tensors_[index];
    const uint8_t* const source = tensor.source + offset;
    uint8_t* const destination = destination_->data() + tensor.offset + offset;
    uint64_t sum = 0;
    for (uint64_t done = 0; done < bytes; done += kBlockBytes) {
      const uint64_t block = std::min(kBlockBytes, bytes - done);
      sum += DigestBytes(source + done, block, offset + done);
      StreamCopy(destination + done, source + done, block);
    }
    digests_[index].fetch_add(sum, std::memory_order_relaxed);
    AddTo(progress_, bytes);
  });
}

}  // namespace weightcast
