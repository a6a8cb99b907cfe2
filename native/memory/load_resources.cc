#include "memory/load_resources.h"

#include <sys/mman.h>

#include <cerrno>

#include "memory/read_plan.h"
#include "system/base.h"

namespace weightcast {
namespace {

/// Of a huge page: a device moves bytes to memory in one piece in fewer commands than to scattered pages.
constexpr uint64_t kAlignment = uint64_t{2} << 20;
constexpr uint64_t kMapped = ReadPlan::kMostBytes + kAlignment;

}  // namespace

LoadResources::Turn::Turn(LoadResources& resources) : resources_(resources) {
  std::unique_lock<std::mutex> lock(resources_.mutex_);
  resources_.turn_ended_.wait(lock, [this] { return resources_.turns_ > 0; });
  resources_.turns_--;
}

LoadResources::Turn::~Turn() {
  const std::lock_guard<std::mutex> lock(resources_.mutex_);
  resources_.turns_++;
  resources_.turn_ended_.notify_one();
}

LoadResources::Buffer::Buffer(LoadResources& resources) : resources_(resources) {
  {
    const std::lock_guard<std::mutex> lock(resources_.mutex_);
    if (!resources_.buffers_.empty()) {
      memory_ = resources_.buffers_.back();
      resources_.buffers_.pop_back();
      return;
    }
  }
  void* const mapped = mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw Failure::System(errno, "cannot allocate a buffer to read files into");
  const auto begin = reinterpret_cast<uintptr_t>(mapped);
  memory_ = {mapped, static_cast<uint8_t*>(mapped) + (kAlignment - begin % kAlignment) % kAlignment};
  madvise(memory_.data, ReadPlan::kMostBytes, MADV_HUGEPAGE);
}

LoadResources::Buffer::~Buffer() {
  const std::lock_guard<std::mutex> lock(resources_.mutex_);
  resources_.buffers_.push_back(memory_);
}

LoadResources::~LoadResources() {
  for (const Memory& buffer : buffers_) munmap(buffer.mapped, kMapped);
}

}  // namespace weightcast
