#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "collective/broadcast.h"
#include "device/cuda/cuda_device.h"

namespace weightcast {

/// Copies from the memory of other processes' CUDA devices into that of this rank's, for one collective.
class DeviceCopier : public OpenedMemory {
 public:
  explicit DeviceCopier(std::shared_ptr<const cuda::PrimaryContext> context);

  /// Memory that another process shares; `identity` tells it from all other memory. Throws as DeviceBlock::Open.
  std::shared_ptr<const cuda::DeviceBlock> Open(const uint64_t (&identity)[2], const cuda::IpcMemoryHandle& handle);
  /// What a process has open of another's memory, that one cannot give back.
  void Close(const Announcement& announcement) override;
  void CloseAll() override { opened_.clear(); }

  /// Returns when the bytes are there. Throws as Driver::Check, and DEVICE_LOST if the copy does not end.
  void Copy(cuda::DevicePointer destination, cuda::DevicePointer source, uint64_t bytes);

 private:
  const std::shared_ptr<const cuda::PrimaryContext> context_;
  const cuda::OwnedStream stream_;
  const cuda::OwnedEvent ended_;
  /// By process, and within it by number.
  std::map<std::pair<uint64_t, uint64_t>, std::shared_ptr<const cuda::DeviceBlock>> opened_;
};

/// A broadcast within the memory of the CUDA devices of one host: each receiver opens the root's allocation and copies
/// from it, over NVLink or PCIe, or within the device that both are on.
class DeviceCopy : public BroadcastCopy {
 public:
  struct Places {
    /// Without a block but on the root.
    cuda::DevicePlace source;
    cuda::DevicePlace destination;
    uint64_t bytes = 0;
  };

  /// Throws OUT_OF_RANGE.
  DeviceCopy(Places places, std::shared_ptr<DeviceCopier> copier);

  bool has_source() const override { return places_.source.block != nullptr; }
  uint64_t bytes() const override { return places_.bytes; }
  void Announce(Announcement& announcement) const override;
  void CopyOwn(const Check& check) override;
  void CopyAnnounced(const Announcement& announcement, const Check& check) override;

 private:
  const Places places_;
  const std::shared_ptr<DeviceCopier> copier_;
};

}  // namespace weightcast
