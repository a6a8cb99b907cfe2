#include "device/cuda/context.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "system/base.h"

namespace weightcast::cuda {

std::shared_ptr<const PrimaryContext> PrimaryContext::Retain(int index) {
  return std::shared_ptr<const PrimaryContext>(new PrimaryContext(index));
}

PrimaryContext::PrimaryContext(int index)
    : driver_(Driver::Get()), device_(FindDevice(driver_, index)), uuid_(DeviceUuid(driver_, device_)) {
  // Threads that wait for the GPU sleep. Not ours to choose if others in the process made the context before us.
  driver_.cuDevicePrimaryCtxSetFlags(device_, kContextBlockingSync);
  driver_.Check(driver_.cuDevicePrimaryCtxRetain(&context_, device_), "cannot make a context on device " + uuid_);
}

PrimaryContext::~PrimaryContext() { driver_.cuDevicePrimaryCtxRelease(device_); }

DeviceHandle FindDevice(const Driver& driver, int index) {
  int count = 0;
  driver.Check(driver.cuDeviceGetCount(&count), "cannot count the GPUs");
  if (index < 0 || index >= count) {
    throw Failure(code::kCuda, "there is no CUDA device " + std::to_string(index) + ": this process sees " +
                                   std::to_string(count) + ", counted from 0 among CUDA_VISIBLE_DEVICES");
  }
  DeviceHandle device = 0;
  driver.Check(driver.cuDeviceGet(&device, index), "cannot find CUDA device " + std::to_string(index));
  return device;
}

std::string DeviceUuid(const Driver& driver, DeviceHandle device) {
  Uuid uuid{};
  Uuid parent{};
  driver.Check(driver.cuDeviceGetUuid(&uuid, device), "cannot ask a device its UUID");
  // The older function gives the UUID of the whole GPU also for an instance of MIG.
  driver.Check(driver.cuDeviceGetParentUuid(&parent, device), "cannot ask a GPU its UUID");
  std::string text = std::memcmp(&uuid, &parent, sizeof(uuid)) == 0 ? "GPU-" : "MIG-";
  for (size_t index = 0; index < sizeof(uuid.bytes); index++) {
    char digits[4];
    std::snprintf(digits, sizeof(digits), "%02x", uuid.bytes[index]);
    if (index == 4 || index == 6 || index == 8 || index == 10) text += '-';
    text += digits;
  }
  return text;
}

std::string PciAddress(const Driver& driver, DeviceHandle device) {
  char text[32] = {};
  driver.Check(driver.cuDeviceGetPCIBusId(text, sizeof(text), device), "cannot ask a device its PCI address");
  std::string address = text;
  std::transform(address.begin(), address.end(), address.begin(), [](unsigned char c) { return std::tolower(c); });
  return address;
}

int NumaNode(const std::string& pci_address) {
  std::ifstream file("/sys/bus/pci/devices/" + pci_address + "/numa_node");
  int node = -1;
  file >> node;
  return file ? node : -1;
}

Probe ProbeDriver() {
  const Driver& driver = Driver::Get();
  Probe probe{driver.version(), {}};
  int count = 0;
  driver.Check(driver.cuDeviceGetCount(&count), "cannot count the GPUs");
  for (int index = 0; index < count; index++) {
    const DeviceHandle device = FindDevice(driver, index);
    char name[256] = {};
    size_t bytes = 0;
    driver.Check(driver.cuDeviceGetName(name, sizeof(name), device), "cannot ask a device its name");
    driver.Check(driver.cuDeviceTotalMem(&bytes, device), "cannot ask a device its memory");
    probe.devices.push_back({DeviceUuid(driver, device), name, bytes, PciAddress(driver, device)});
  }
  return probe;
}

namespace {

constexpr uint64_t kGranularity = uint64_t{2} << 20;

/// "; 3 GiB wanted, 1 GiB of 80 GiB free", as far as the driver will say.
std::string Shortage(const Driver& driver, uint64_t bytes) {
  size_t free = 0;
  size_t total = 0;
  if (driver.cuMemGetInfo(&free, &total) != kSuccess) return ByteSize(bytes) + " wanted";
  return ByteSize(bytes) + " wanted, " + ByteSize(free) + " of " + ByteSize(total) + " free";
}

uint64_t NextNumber() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

OwnedStream::OwnedStream(std::shared_ptr<const PrimaryContext> context) : context_(std::move(context)) {
  const CurrentContext current(context_->driver(), context_->context());
  // Not ordered with the stream that other code of the process uses by default.
  context_->driver().Check(context_->driver().cuStreamCreate(&stream_, kStreamNonBlocking), "cannot make a stream");
}

OwnedStream::~OwnedStream() {
  context_->TryInContext([this] { context_->driver().cuStreamDestroy(stream_); });
}

OwnedEvent::OwnedEvent(std::shared_ptr<const PrimaryContext> context, unsigned flags) : context_(std::move(context)) {
  const CurrentContext current(context_->driver(), context_->context());
  context_->driver().Check(context_->driver().cuEventCreate(&event_, flags), "cannot make an event");
}

OwnedEvent::~OwnedEvent() {
  if (event_ == nullptr) return;
  context_->TryInContext([this] { context_->driver().cuEventDestroy(event_); });
}

HostMemory::HostMemory(std::shared_ptr<const PrimaryContext> context, size_t bytes) : context_(std::move(context)) {
  const CurrentContext current(context_->driver(), context_->context());
  const Result result = context_->driver().cuMemHostAlloc(&memory_, bytes, kHostAllocPortable);
  // Memory of the host: OUT_OF_DEVICE_MEMORY would make a planner take smaller slots.
  if (result == kErrorOutOfMemory) {
    throw Failure(code::kCuda, "cannot page-lock " + ByteSize(bytes) + " of host memory: " +
                                   context_->driver().ErrorText(result) + "; that is memory of the host");
  }
  context_->driver().Check(result, "cannot page-lock " + ByteSize(bytes) + " of host memory");
}

HostMemory::~HostMemory() {
  context_->TryInContext([this] { context_->driver().cuMemFreeHost(memory_); });
}

DeviceBlock::DeviceBlock(std::shared_ptr<const PrimaryContext> context, DevicePointer pointer, uint64_t bytes,
                         bool opened)
    : context_(std::move(context)), number_(NextNumber()), pointer_(pointer), bytes_(bytes), opened_(opened) {}

std::shared_ptr<const DeviceBlock> DeviceBlock::Allocate(std::shared_ptr<const PrimaryContext> context,
                                                         uint64_t bytes) {
  const Driver& driver = context->driver();
  if (bytes == 0) throw Failure(code::kOutOfRange, "an allocation needs at least one byte");
  const CurrentContext current(driver, context->context());
  const uint64_t rounded = (bytes + kGranularity - 1) / kGranularity * kGranularity;
  DevicePointer pointer = 0;
  const Result result = driver.cuMemAlloc(&pointer, rounded);
  if (result == kErrorOutOfMemory) {
    throw Failure(code::kOutOfDeviceMemory,
                  "device " + context->uuid() + ": " + Shortage(driver, bytes) + ": " + driver.ErrorText(result));
  }
  driver.Check(result, "cannot allocate " + ByteSize(bytes) + " on device " + context->uuid());
  return std::shared_ptr<const DeviceBlock>(new DeviceBlock(std::move(context), pointer, bytes, false));
}

std::shared_ptr<const DeviceBlock> DeviceBlock::Open(std::shared_ptr<const PrimaryContext> context,
                                                     const IpcMemoryHandle& handle) {
  const Driver& driver = context->driver();
  const CurrentContext current(driver, context->context());
  const std::string attempt = "cannot open another process's memory on device " + context->uuid();
  DevicePointer pointer = 0;
  driver.Check(driver.cuIpcOpenMemHandle(&pointer, handle, kIpcLazyEnablePeerAccess), attempt);
  DevicePointer base = 0;
  size_t bytes = 0;
  if (const Result result = driver.cuMemGetAddressRange(&base, &bytes, pointer); result != kSuccess) {
    driver.cuIpcCloseMemHandle(pointer);
    throw driver.FailureOf(result, attempt);
  }
  const uint64_t usable = bytes - (pointer - base);
  return std::shared_ptr<const DeviceBlock>(new DeviceBlock(std::move(context), pointer, usable, true));
}

DeviceBlock::~DeviceBlock() {
  context_->TryInContext([this] {
    const Driver& driver = context_->driver();
    opened_ ? driver.cuIpcCloseMemHandle(pointer_) : driver.cuMemFree(pointer_);
  });
}

IpcMemoryHandle DeviceBlock::Handle() const {
  const Driver& driver = context_->driver();
  const CurrentContext current(driver, context_->context());
  IpcMemoryHandle handle{};
  driver.Check(driver.cuIpcGetMemHandle(&handle, pointer_),
               "cannot share memory of device " + context_->uuid() + " with other processes");
  return handle;
}

void DeviceBlock::CheckRange(uint64_t offset, uint64_t bytes) const {
  if (offset <= bytes_ && bytes <= bytes_ - offset) return;
  throw Failure(code::kOutOfRange, "offset " + std::to_string(offset) + " with " + std::to_string(bytes) +
                                       " bytes lies outside device memory of " + std::to_string(bytes_) + " bytes");
}

}  // namespace weightcast::cuda
