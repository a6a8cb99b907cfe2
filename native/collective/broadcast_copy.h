#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "collective/membership.h"
#include "device/cuda/cuda_device.h"
#include "memory/mapping.h"
#include "system/base.h"

namespace weightcast {

/// How the bytes of one broadcast move on one rank of a host: the part of ShmCollective that knows what kind of
/// memory they lie in. Used on the collective's thread, except for construction.
class BroadcastCopy {
 public:
  /// Called between pieces of a copy; throws once the collective has ended.
  using Check = std::function<void()>;

  virtual ~BroadcastCopy() = default;

  /// Whether this rank holds the source, which makes it the root.
  virtual bool has_source() const = 0;
  virtual uint64_t bytes() const = 0;
  /// On the root: writes where the source lies, so that other processes can open it.
  virtual void Announce(Announcement& announcement) const = 0;
  /// On the root: copies the source into the destination. Returns when the bytes are there.
  virtual void CopyOwn(const Check& check) = 0;
  /// Elsewhere: copies from where the root announced that its source lies. Returns when the bytes are there.
  virtual void CopyAnnounced(const Announcement& announcement, const Check& check) = 0;
};

/// Memory of other ranks that a collective has open. Opening it takes about as long as copying some 100 MiB of it, so
/// it stays open from one broadcast to the next. Used on the collective's thread.
class OpenedMemory {
 public:
  virtual ~OpenedMemory() = default;

  /// Closes what was opened of the announcement's root, unless it may stay open after its owner has freed it.
  virtual void Close(const Announcement& announcement) = 0;
  virtual void CloseAll() = 0;
};

/// Mappings of files that other ranks broadcast from. Mapping a slot again for each bucket would cost as much in
/// page faults as the copy itself. Keeps the eight used last; a file that its owner has removed keeps its memory
/// until it drops out or the cache goes.
class MappingCache : public OpenedMemory {
 public:
  /// The file at `path`, which must be the one that `file` identifies.
  std::shared_ptr<Mapping> Open(const std::string& path, const FileId& file);
  /// A removed file keeps its memory for those who have mapped it, so nothing needs to be closed.
  void Close(const Announcement&) override {}
  void CloseAll() override {}

 private:
  static constexpr size_t kCapacity = 8;
  /// Used last at the front.
  std::list<std::shared_ptr<Mapping>> mappings_;
};

/// A broadcast within the memory of the host: each receiver maps the file in which the root's source lies and copies
/// from it.
class HostCopy : public BroadcastCopy {
 public:
  struct Locations {
    /// On the root only.
    std::shared_ptr<Mapping> source;
    uint64_t source_offset = 0;
    std::shared_ptr<Mapping> destination;
    uint64_t destination_offset = 0;
    uint64_t bytes = 0;
  };

  /// `sources` are the files of other ranks that the collective has mapped. Throws OUT_OF_RANGE, EACCES or EINVAL.
  HostCopy(Locations locations, std::shared_ptr<MappingCache> sources);

  bool has_source() const override { return locations_.source != nullptr; }
  uint64_t bytes() const override { return locations_.bytes; }
  void Announce(Announcement& announcement) const override;
  void CopyOwn(const Check& check) override;
  void CopyAnnounced(const Announcement& announcement, const Check& check) override;

 private:
  void Copy(const Mapping& source, uint64_t source_offset, const Check& check);

  const Locations locations_;
  const std::shared_ptr<MappingCache> sources_;
};

/// Copies from the memory of other processes' CUDA devices into that of this rank's, for one collective.
class DeviceCopier : public OpenedMemory {
 public:
  explicit DeviceCopier(std::shared_ptr<const cuda::PrimaryContext> context);

  /// Memory that another process shares; `identity` tells it from all other memory. Throws as DeviceBlock::Open.
  std::shared_ptr<const cuda::DeviceBlock> Open(const uint64_t (&identity)[2], const cuda::IpcMemoryHandle& handle);
  /// Memory that another process has open is not freed when its owner frees it.
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
  struct Locations {
    /// Without a block but on the root.
    cuda::DeviceLocation source;
    cuda::DeviceLocation destination;
    uint64_t bytes = 0;
  };

  /// Throws OUT_OF_RANGE.
  DeviceCopy(Locations locations, std::shared_ptr<DeviceCopier> copier);

  bool has_source() const override { return locations_.source.block != nullptr; }
  uint64_t bytes() const override { return locations_.bytes; }
  void Announce(Announcement& announcement) const override;
  void CopyOwn(const Check& check) override;
  void CopyAnnounced(const Announcement& announcement, const Check& check) override;

 private:
  const Locations locations_;
  const std::shared_ptr<DeviceCopier> copier_;
};

}  // namespace weightcast
