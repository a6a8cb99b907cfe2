#include "device/cuda/cuda_device.h"

#include <utility>

#include "memory/mapping.h"
#include "system/base.h"

namespace weightcast::cuda {
namespace {

/// Operations enqueued at a time: enough that the GPU never waits for the next one.
constexpr size_t kDepth = 16;

}  // namespace

CudaMemory::CudaMemory(std::shared_ptr<CudaDevice> device, std::shared_ptr<const DeviceBlock> block)
    : device_(std::move(device)), block_(std::move(block)) {}

CudaMemory::~CudaMemory() { Free(); }

void CudaMemory::Free() {
  if (!block_) return;
  device_->held_.erase(this);
  block_.reset();
}

CudaDevice::CudaDevice(int index, unsigned pin_threads, double stall_milliseconds)
    : CudaDevice(PrimaryContext::Retain(index), pin_threads, stall_milliseconds) {}

CudaDevice::CudaDevice(std::shared_ptr<const PrimaryContext> context, unsigned pin_threads, double stall_milliseconds)
    : uuid_(context->uuid()),
      numa_node_(NumaNodes() > 1 ? NumaNode(PciAddress(context->driver(), context->device())) : -1),
      pinned_(std::make_unique<PinnedMappings>(context, pin_threads)),
      context_(std::move(context)),
      uploads_(std::make_unique<StreamWorker>(context_, "weightcast-h2d", kDepth, stall_milliseconds)),
      copies_(std::make_unique<StreamWorker>(context_, "weightcast-d2d", kDepth, stall_milliseconds)),
      digests_(std::make_unique<GpuDigest>(context_, stall_milliseconds)) {}

CudaDevice::~CudaDevice() { Stop(); }

DeviceMemory CudaDevice::Measure() const {
  const PrimaryContext& context = *OpenContext();
  const CurrentContext current(context.driver(), context.context());
  size_t free = 0;
  size_t total = 0;
  context.driver().Check(context.driver().cuMemGetInfo(&free, &total), "cannot ask device " + uuid_ + " what is free");
  return {free, total};
}

std::shared_ptr<CudaMemory> CudaDevice::Allocate(uint64_t bytes) {
  return Hold(DeviceBlock::Allocate(OpenContext(), bytes));
}

std::shared_ptr<CudaMemory> CudaDevice::Open(const IpcMemoryHandle& handle) {
  return Hold(DeviceBlock::Open(OpenContext(), handle));
}

void CudaDevice::Pin(std::shared_ptr<Mapping> mapping, Done done) {
  OpenContext();
  pinned_->Pin(std::move(mapping), std::move(done));
}

void CudaDevice::Unpin(const Mapping& mapping, Done done) { pinned_->Unpin(mapping, std::move(done)); }

void CudaDevice::SubmitUpload(std::vector<SegmentCopies> segments, std::shared_ptr<const DeviceBlock> destination,
                              Done done) {
  OpenContext();
  const auto upload = std::make_shared<Upload>(std::move(segments), std::move(destination));
  Operation operation;
  operation.what = "upload to device " + uuid_;
  operation.bytes = upload->bytes();
  operation.enqueue = [upload](Stream stream) { upload->Enqueue(stream); };
  operation.done = std::move(done);
  uploads_->Submit(std::move(operation));
}

void CudaDevice::SubmitCopy(const DeviceLocation& source, const DeviceLocation& destination, uint64_t bytes,
                            Done done) {
  const Driver& driver = OpenContext()->driver();
  source.block->CheckRange(source.offset, bytes);
  destination.block->CheckRange(destination.offset, bytes);
  Operation operation;
  operation.what = "copy on device " + uuid_;
  operation.bytes = bytes;
  operation.enqueue = [&driver, source, destination, bytes](Stream stream) {
    if (bytes == 0) return;
    driver.Check(driver.cuMemcpyDtoDAsync(destination.block->pointer() + destination.offset,
                                          source.block->pointer() + source.offset, bytes, stream),
                 "cannot copy on the device");
  };
  operation.done = std::move(done);
  copies_->Submit(std::move(operation));
}

std::shared_ptr<const HostMemory> CudaDevice::SubmitRead(const DeviceLocation& source, uint64_t bytes, Done done) {
  const Driver& driver = OpenContext()->driver();
  source.block->CheckRange(source.offset, bytes);
  const auto memory = std::make_shared<const HostMemory>(context_, bytes == 0 ? 1 : bytes);
  Operation operation;
  operation.what = "read from device " + uuid_;
  operation.bytes = bytes;
  operation.enqueue = [&driver, source, memory, bytes](Stream stream) {
    if (bytes == 0) return;
    driver.Check(driver.cuMemcpyDtoHAsync(memory->data(), source.block->pointer() + source.offset, bytes, stream),
                 "cannot read from the device");
  };
  operation.done = std::move(done);
  copies_->Submit(std::move(operation));
  return memory;
}

GpuDigest::Digests CudaDevice::SubmitDigest(std::shared_ptr<const DeviceBlock> block, std::vector<TensorPart> parts,
                                            Done done) {
  OpenContext();
  return digests_->Submit(std::move(block), std::move(parts), std::move(done));
}

void CudaDevice::Close() noexcept {
  if (!context_) return;
  uploads_.reset();
  copies_.reset();
  digests_.reset();
  while (!held_.empty()) (*held_.begin())->Free();
  pinned_->Close();
  context_.reset();
}

void CudaDevice::Stop() noexcept {
  Close();
  if (pinned_) pinned_->Stop();
}

const std::shared_ptr<const PrimaryContext>& CudaDevice::OpenContext() const {
  if (!context_) throw Failure(code::kClosed, "device " + uuid_ + " is closed");
  return context_;
}

std::shared_ptr<CudaMemory> CudaDevice::Hold(std::shared_ptr<const DeviceBlock> block) {
  std::shared_ptr<CudaMemory> memory(new CudaMemory(shared_from_this(), std::move(block)));
  held_.insert(memory.get());
  return memory;
}

}  // namespace weightcast::cuda
