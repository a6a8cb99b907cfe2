#include "memory/tensor_digests.h"

#include <algorithm>
#include <string>
#include <utility>

#include "memory/digest.h"
#include "system/base.h"

namespace weightcast {

TensorDigests::TensorDigests(std::vector<TensorPlace> tensors)
    : tensors_(std::move(tensors)), digests_(tensors_.size()) {
  uint64_t end = 0;
  for (size_t index = 0; index < tensors_.size(); index++) {
    const TensorPlace& tensor = tensors_[index];
    if (tensor.offset < end) {
      throw Failure(code::kOutOfRange, "tensor " + std::to_string(index) + " begins before the one before it ends");
    }
    end = tensor.end();
    bytes_ += tensor.bytes;
    digests_[index] = DigestPadding(tensor.bytes);
  }
}

template <class Visit>
void TensorDigests::ForEachPart(uint64_t offset, uint64_t bytes, Visit visit) const {
  const uint64_t end = offset + bytes;
  auto tensor = std::upper_bound(tensors_.begin(), tensors_.end(), offset,
                                 [](uint64_t place, const TensorPlace& each) { return place < each.end(); });
  for (; tensor != tensors_.end() && tensor->offset < end; ++tensor) {
    visit(tensor - tensors_.begin(), std::max(offset, tensor->offset), std::min(end, tensor->end()));
  }
}

uint64_t TensorDigests::BytesIn(uint64_t offset, uint64_t bytes) const {
  uint64_t sum = 0;
  ForEachPart(offset, bytes, [&](size_t, uint64_t begin, uint64_t end) { sum += end - begin; });
  return sum;
}

void TensorDigests::Add(uint64_t offset, const uint8_t* data, uint64_t bytes) {
  ForEachPart(offset, bytes, [&](size_t index, uint64_t begin, uint64_t end) {
    const uint64_t sum = DigestBytes(data + (begin - offset), end - begin, begin - tensors_[index].offset);
    digests_[index].fetch_add(sum, std::memory_order_relaxed);
  });
}

}  // namespace weightcast
