#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "device/cuda/context.h"
#include "device/cuda/gpu_digest.h"
#include "device/cuda/stream_worker.h"
#include "device/cuda/upload.h"
#include "device/device_memory.h"

namespace weightcast::cuda {

class CudaDevice;

/// Device memory that this process holds: allocated here, or opened from another process's handle. Released when
/// it is freed or destroyed. Used on one thread, the same as its device.
class CudaMemory {
 public:
  ~CudaMemory();
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;

  /// Null once freed. Work in flight goes on using the memory, which goes back to the device after that.
  const std::shared_ptr<const DeviceBlock>& block() const { return block_; }
  /// May be called twice.
  void Free();

 private:
  friend class CudaDevice;
  CudaMemory(std::shared_ptr<CudaDevice> device, std::shared_ptr<const DeviceBlock> block);

  const std::shared_ptr<CudaDevice> device_;
  std::shared_ptr<const DeviceBlock> block_;
};

/// A place in device memory.
struct DeviceLocation {
  std::shared_ptr<const DeviceBlock> block;
  uint64_t offset = 0;
};

/// One GPU, through its primary context.
///
/// Uploads run on a stream of their own in the order they were submitted; so do copies, and digests. Nothing orders the
/// three among each other: a caller that needs an order waits for one before it submits the next.
///
/// Used on one thread. `done` is called on others.
class CudaDevice : public std::enable_shared_from_this<CudaDevice> {
 public:
  /// `index` as for PrimaryContext, `pin_threads` for PinnedMappings, `stall_milliseconds` as for StreamWorker.
  CudaDevice(int index, unsigned pin_threads, double stall_milliseconds);
  /// As Stop().
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  /// These two stay valid when the device is closed.
  const std::string& uuid() const { return uuid_; }
  /// Of the host's memory next to the device; -1 if there is no choice or the host does not say.
  int numa_node() const { return numa_node_; }

  /// Throws CLOSED once the device is closed; a holder of the pointer keeps the context alive.
  const std::shared_ptr<const PrimaryContext>& OpenContext() const;

  DeviceMemory Measure() const;
  uint64_t pinned_bytes() const { return pinned_ ? pinned_->bytes() : 0; }

  /// Throws OUT_OF_DEVICE_MEMORY.
  std::shared_ptr<CudaMemory> Allocate(uint64_t bytes);
  std::shared_ptr<CudaMemory> Open(const IpcMemoryHandle& handle);

  void Pin(std::shared_ptr<Mapping> mapping, Done done);
  void Unpin(const Mapping& mapping, Done done);

  void SubmitUpload(std::vector<SegmentCopies> segments, std::shared_ptr<const DeviceBlock> destination, Done done);
  /// Within the device, or between it and one whose memory was opened.
  void SubmitCopy(const DeviceLocation& source, const DeviceLocation& destination, uint64_t bytes, Done done);
  /// Reads device memory into page-locked memory that is returned at once and filled when `done` is called.
  std::shared_ptr<const HostMemory> SubmitRead(const DeviceLocation& source, uint64_t bytes, Done done);
  GpuDigest::Digests SubmitDigest(std::shared_ptr<const DeviceBlock> block, std::vector<TensorPart> parts, Done done);

  /// Releases all that is held through this object, after work in flight has ended; what has not begun fails with
  /// CLOSED. May be called twice.
  void Close() noexcept;
  /// As Close(), and waits for all threads.
  void Stop() noexcept;

 private:
  friend class CudaMemory;

  CudaDevice(std::shared_ptr<const PrimaryContext> context, unsigned pin_threads, double stall_milliseconds);
  std::shared_ptr<CudaMemory> Hold(std::shared_ptr<const DeviceBlock> block);

  const std::string uuid_;
  const int numa_node_;
  std::unique_ptr<PinnedMappings> pinned_;
  /// Null once closed, as what follows.
  std::shared_ptr<const PrimaryContext> context_;
  std::unique_ptr<StreamWorker> uploads_;
  std::unique_ptr<StreamWorker> copies_;
  std::unique_ptr<GpuDigest> digests_;
  std::set<CudaMemory*> held_;
};

}  // namespace weightcast::cuda
