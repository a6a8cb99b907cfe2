#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "device/cuda/primary_context.h"

namespace weightcast::cuda {

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
  size_t bytes() const { return bytes_; }

 private:
  const std::shared_ptr<const PrimaryContext> context_;
  const size_t bytes_;
  void* memory_ = nullptr;
};

/// Device memory: an allocation of this process, or another process's that was opened by its handle. Work in flight
/// holds the shared pointer, so that the GPU never touches memory that is gone.
class DeviceBlock {
 public:
  /// Takes whole steps of 2 MiB: the driver then makes the allocation by itself, and the handle opens nothing else.
  /// Throws OUT_OF_DEVICE_MEMORY naming the wanted and the free bytes.
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
