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
    digests_[index] = DigestPadding(tensor.bytes);
  }
}

void TensorDigests::Add(uint64_t offset, const uint8_t* data, uint64_t bytes) {
  const uint64_t end = offset + bytes;
  auto tensor = std::upper_bound(tensors_.begin(), tensors_.end(), offset,
                                 [](uint64_t place, const TensorPlace& each) { return place < each.end(); });
  for (; tensor != tensors_.end() && tensor->offset < end; ++tensor) {
    const uint64_t from = std::max(offset, tensor->offset);
    const uint64_t to = std::min(end, tensor->end());
    const uint64_t sum = DigestBytes(data + (from - offset), to - from, from - tensor->offset);
    digests_[tensor - tensors_.begin()].fetch_add(sum, std::memory_order_relaxed);
  }
}

}  // namespace weightcast
