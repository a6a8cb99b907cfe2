#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fabric/verbs/queue_pair.h"
#include "fabric/verbs/verbs_device.h"
#include "memory/mapping.h"

namespace weightcast {

/// A page of memory that shares it with nothing else, so that it may be registered.
class PrivatePage {
 public:
  PrivatePage();
  ~PrivatePage();
  PrivatePage(const PrivatePage&) = delete;
  PrivatePage& operator=(const PrivatePage&) = delete;

  static constexpr size_t kBytes = 4096;
  uint64_t* words() const { return words_; }

 private:
  uint64_t* words_;
};

/// Memory registered once with each of a fabric's devices. Safe among threads.
class RegionSet {
 public:
  /// Throws as MemoryRegion. `name` is of the memory.
  RegionSet(const std::vector<std::shared_ptr<VerbsDevice>>& devices, void* memory, uint64_t bytes, int access,
            const std::string& name);

  uint64_t address() const { return address_; }
  /// In the order of the devices.
  const std::vector<uint32_t>& local_keys() const { return local_keys_; }
  const std::vector<uint32_t>& remote_keys() const { return remote_keys_; }
  /// The devices cannot reach the memory any more when this returns. May be called twice.
  void Release();

 private:
  const uint64_t address_;
  std::vector<uint32_t> local_keys_;
  std::vector<uint32_t> remote_keys_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<MemoryRegion>> regions_;
};

/// The RDMA ports that a fabric uses, and the memory that it has registered with them. Registering takes a while for
/// much memory; do it on a thread that nobody waits for. Safe among threads.
class VerbsHost {
 public:
  /// Device and number of each port. Throws as VerbsDevice.
  VerbsHost(const std::vector<std::pair<std::string, uint8_t>>& ports, std::optional<int> gid_index);
  ~VerbsHost();
  VerbsHost(const VerbsHost&) = delete;
  VerbsHost& operator=(const VerbsHost&) = delete;

  const std::vector<std::shared_ptr<VerbsDevice>>& devices() const { return devices_; }

  /// For peers to read from.
  std::shared_ptr<RegionSet> RegisterSource(const Mapping& mapping) const;
  /// For reads to write to; once a mapping, for as long as it is mapped.
  std::shared_ptr<RegionSet> RegisterDestination(const std::shared_ptr<Mapping>& mapping);
  /// Ends all registrations and gives the devices up; nobody uses this in the meantime, or after. May be called twice.
  void Close();

  /// A word that peers read to find out whether a queue pair works.
  static constexpr uint64_t kProbeWord = 0x7761'6967'6874'6331;
  const RegionSet& probe_source() const { return *probe_source_; }

 private:
  std::vector<std::shared_ptr<VerbsDevice>> devices_;
  PrivatePage probe_page_;
  std::unique_ptr<RegionSet> probe_source_;
  std::mutex mutex_;
  std::map<const Mapping*, std::weak_ptr<RegionSet>> destinations_;
};

}  // namespace weightcast
