#include "device/cuda/gpu_digest.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "device/cuda/kernels/digest_ptx.h"

namespace weightcast::cuda {
namespace {

/// Parts of one launch; more take several.
constexpr size_t kMaxParts = 8192;
/// What one warp does at a time: long enough that finding its part costs nothing.
constexpr uint64_t kSliceBytes = uint64_t{64} << 10;
constexpr unsigned kThreads = 256;
constexpr unsigned kWarpsOfBlock = kThreads / 32;
/// Blocks that a multiprocessor has at a time, and then some.
constexpr unsigned kBlocksOfProcessor = 8;

/// As Part in kernels/digest.cu.
struct KernelPart {
  DevicePointer data;
  uint64_t row_bytes;
  uint64_t rows;
  uint64_t pitch;
  uint64_t tensor_offset;
  uint64_t tensor_pitch;
  uint64_t first_slice;
};
static_assert(sizeof(KernelPart) == 56, "as the kernel reads it");

}  // namespace

/// One call: its parts, and what came of them.
struct GpuDigest::Run {
  std::shared_ptr<const DeviceBlock> block;
  std::vector<TensorPart> parts;
  Digests digests = std::make_shared<std::vector<uint64_t>>();
  std::optional<Failure> failure;
  Done done;
};

class GpuDigest::Kernel {
 public:
  explicit Kernel(std::shared_ptr<const PrimaryContext> context) : context_(std::move(context)) {}
  ~Kernel() {
    if (module_ != nullptr) context_->TryInContext([this] { context_->driver().cuModuleUnload(module_); });
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  /// In the context. At most kMaxParts parts, and the launch before has ended.
  void Enqueue(const Run& run, size_t first, size_t count, Stream stream) {
    if (count == 0) return;
    Prepare();
    const uint64_t slices = FillTables(run, first, count);
    const Driver& driver = context_->driver();
    DevicePointer sums = tables_->pointer();
    DevicePointer parts = sums + kMaxParts * sizeof(uint64_t);
    const size_t bytes = kMaxParts * sizeof(uint64_t) + count * sizeof(KernelPart);
    driver.Check(driver.cuMemcpyHtoDAsync(sums, staging_->data(), bytes, stream), "cannot describe the tensors");
    if (slices > 0) Launch(parts, count, slices, sums, stream);
    driver.Check(driver.cuMemcpyDtoHAsync(staging_->data(), sums, count * sizeof(uint64_t), stream),
                 "cannot fetch digests");
  }

  /// After the launch has ended.
  const uint64_t* Sums() const { return reinterpret_cast<const uint64_t*>(staging_->data()); }

 private:
  void Prepare() {
    if (tables_) return;
    const Driver& driver = context_->driver();
    const std::string attempt = "cannot load the digest kernel on device " + context_->uuid();
    if (module_ == nullptr) driver.Check(driver.cuModuleLoadData(&module_, kDigestPtx), attempt);
    driver.Check(driver.cuModuleGetFunction(&function_, module_, "weightcast_digest"), attempt);
    driver.Check(driver.cuDeviceGetAttribute(&processors_, kAttributeMultiprocessorCount, context_->device()), attempt);
    const size_t bytes = kMaxParts * (sizeof(uint64_t) + sizeof(KernelPart));
    staging_ = std::make_unique<HostMemory>(context_, bytes);
    tables_ = DeviceBlock::Allocate(context_, bytes);
  }

  /// Sums, then parts. Returns how many slices the parts have.
  uint64_t FillTables(const Run& run, size_t first, size_t count) {
    auto* const sums = reinterpret_cast<uint64_t*>(staging_->data());
    auto* const parts = reinterpret_cast<KernelPart*>(staging_->data() + kMaxParts * sizeof(uint64_t));
    uint64_t slices = 0;
    for (size_t index = 0; index < count; index++) {
      const TensorPart& part = run.parts[first + index];
      sums[index] = DigestStart(part);
      parts[index] = {run.block->pointer() + part.offset,
                      part.row_bytes,
                      part.rows,
                      part.pitch,
                      part.tensor_offset,
                      part.tensor_pitch,
                      slices};
      slices += (part.row_bytes * part.rows + kSliceBytes - 1) / kSliceBytes;
    }
    return slices;
  }

  void Launch(DevicePointer parts, size_t count, uint64_t slices, DevicePointer sums, Stream stream) {
    const uint64_t wanted = (slices + kWarpsOfBlock - 1) / kWarpsOfBlock;
    const unsigned blocks =
        static_cast<unsigned>(std::min<uint64_t>(wanted, static_cast<unsigned>(processors_) * kBlocksOfProcessor));
    auto part_count = static_cast<unsigned>(count);
    uint64_t slice_bytes = kSliceBytes;
    void* parameters[] = {&parts, &part_count, &slice_bytes, &slices, &sums};
    const Driver& driver = context_->driver();
    driver.Check(driver.cuLaunchKernel(function_, blocks, 1, 1, kThreads, 1, 1, 0, stream, parameters, nullptr),
                 "cannot start the digest kernel");
  }

  const std::shared_ptr<const PrimaryContext> context_;
  Module module_ = nullptr;
  Function function_ = nullptr;
  int processors_ = 0;
  std::unique_ptr<HostMemory> staging_;
  std::shared_ptr<const DeviceBlock> tables_;
};

GpuDigest::GpuDigest(std::shared_ptr<const PrimaryContext> context, double stall_milliseconds)
    : context_(std::move(context)),
      kernel_(std::make_shared<Kernel>(context_)),
      // One at a time, because all use the same tables.
      worker_(context_, "weightcast-dig", 1, stall_milliseconds) {}

GpuDigest::Digests GpuDigest::Submit(std::shared_ptr<const DeviceBlock> block, std::vector<TensorPart> parts,
                                     Done done) {
  const auto run = std::make_shared<Run>();
  run->parts = CheckedParts(std::move(parts), block->bytes());
  run->block = std::move(block);
  run->digests->resize(run->parts.size());
  run->done = std::move(done);
  for (size_t first = 0;; first += kMaxParts) {
    const size_t count = std::min(kMaxParts, run->parts.size() - first);
    const bool is_last = first + count == run->parts.size();
    worker_.Submit(Step(run, first, count, is_last));
    if (is_last) return run->digests;
  }
}

Operation GpuDigest::Step(const std::shared_ptr<Run>& run, size_t first, size_t count, bool is_last) const {
  Operation step;
  step.what = "digest memory of device " + context_->uuid();
  step.enqueue = [kernel = kernel_, run, first, count](Stream stream) { kernel->Enqueue(*run, first, count, stream); };
  step.collect = [kernel = kernel_, run, first, count] {
    if (count > 0) std::copy_n(kernel->Sums(), count, run->digests->begin() + static_cast<ptrdiff_t>(first));
  };
  step.done = [run, is_last](const Outcome& outcome) {
    if (outcome.failure && !run->failure) run->failure = outcome.failure;
    if (is_last) run->done({outcome.interval, run->failure});
  };
  return step;
}

}  // namespace weightcast::cuda
