#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/cuda/driver.h"

namespace weightcast::cuda {

struct ProbedDevice {
  std::string uuid;
  std::string name;
  uint64_t total_bytes;
  std::string pci_address;
};

struct Probe {
  /// As Driver::version().
  int version;
  /// In the order of their indices.
  std::vector<ProbedDevice> devices;
};

/// What the driver sees, without making a context on any device. Throws CUDA.
Probe ProbeDriver();

/// The context that a device's users in this process share. Everything made in it holds the shared pointer, so that it
/// goes last. Safe among threads.
class PrimaryContext {
 public:
  /// `index` counts the devices that CUDA_VISIBLE_DEVICES leaves. Throws CUDA if there is no such device; takes some
  /// 0.3 seconds the first time.
  static std::shared_ptr<const PrimaryContext> Retain(int index);
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  const Driver& driver() const { return driver_; }
  DeviceHandle device() const { return device_; }
  Context context() const { return context_; }
  /// As DeviceUuid().
  const std::string& uuid() const { return uuid_; }

  /// For destructors: calls `release` in the context, or not at all if that cannot be entered any more.
  template <class Release>
  void TryInContext(Release release) const noexcept {
    if (driver_.cuCtxPushCurrent(context_) != kSuccess) return;
    release();
    Context popped = nullptr;
    driver_.cuCtxPopCurrent(&popped);
  }

 private:
  explicit PrimaryContext(int index);

  const Driver& driver_;
  DeviceHandle device_ = 0;
  std::string uuid_;
  Context context_ = nullptr;
};

/// The device of that index. Throws CUDA and says how many there are.
DeviceHandle FindDevice(const Driver& driver, int index);

/// What NVML and so vLLM call the device: `GPU-` and its UUID, or `MIG-` and the instance's if it is one of MIG.
std::string DeviceUuid(const Driver& driver, DeviceHandle device);

/// As /sys/bus/pci/devices names it: "0000:1b:00.0".
std::string PciAddress(const Driver& driver, DeviceHandle device);

/// The node of the host's memory next to the device; -1 if the host does not say.
int NumaNode(const std::string& pci_address);

/// Owners of what is made in a context. Constructors throw as Driver::Check and may be called on any thread.

class OwnedStream {
 public:
  explicit OwnedStream(std::shared_ptr<const PrimaryContext> context);
  ~OwnedStream();
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;

  Stream get() const { return stream_; }

 private:
  const std::shared_ptr<const PrimaryContext> context_;
  Stream stream_ = nullptr;
};

class OwnedEvent {
 public:
  /// `flags` are kEvent...
  OwnedEvent(std::shared_ptr<const PrimaryContext> context, unsigned flags);
  OwnedEvent(OwnedEvent&& other) noexcept
      : context_(std::move(other.context_)), event_(std::exchange(other.event_, nullptr)) {}
  OwnedEvent& operator=(OwnedEvent&& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(event_, other.event_);
    return *this;
  }
  ~OwnedEvent();

  Event get() const { return event_; }

 private:
  std::shared_ptr<const PrimaryContext> context_;
  Event event_ = nullptr;
};

/// Page-locked memory of the host, for small copies in either direction.
class HostMemory {
 public:
  HostMemory(std::shared_ptr<const PrimaryContext> context, size_t bytes);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  uint8_t* data() const { return static_cast<uint8_t*>(memory_); }

 private:
  const std::shared_ptr<const PrimaryContext> context_;
  void* memory_ = nullptr;
};

/// Device memory: an allocation of this process, or another process's that was opened by its handle. Work in flight
/// holds the shared pointer, so that the GPU never touches memory that is gone.
class DeviceBlock {
 public:
  /// Takes whole steps of 2 MiB: the driver then puts nothing else into the allocation, so that the handle opens
  /// nothing else. Throws OUT_OF_DEVICE_MEMORY naming the wanted and the free bytes.
  static std::shared_ptr<const DeviceBlock> Allocate(std::shared_ptr<const PrimaryContext> context, uint64_t bytes);
  /// The other process keeps the memory until all have closed it.
  static std::shared_ptr<const DeviceBlock> Open(std::shared_ptr<const PrimaryContext> context,
                                                 const IpcMemoryHandle& handle);
  ~DeviceBlock();
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;

  const PrimaryContext& context() const { return *context_; }
  /// Differs from that of every other block that this process ever had.
  uint64_t number() const { return number_; }
  DevicePointer pointer() const { return pointer_; }
  /// What was asked for; of opened memory all of its steps.
  uint64_t bytes() const { return bytes_; }
  /// For other processes; of a block that was allocated here.
  IpcMemoryHandle Handle() const;

  /// Throws OUT_OF_RANGE unless `offset .. offset + bytes` lies in the block.
  void CheckRange(uint64_t offset, uint64_t bytes) const;

 private:
  DeviceBlock(std::shared_ptr<const PrimaryContext> context, DevicePointer pointer, uint64_t bytes, bool opened);

  const std::shared_ptr<const PrimaryContext> context_;
  const uint64_t number_;
  const DevicePointer pointer_;
  const uint64_t bytes_;
  const bool opened_;
};

}  // namespace weightcast::cuda
