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

#include "fabric/address.h"
#include "fabric/verbs/libibverbs.h"
#include "memory/mapping.h"

namespace weightcast {

/// A port of an RDMA device of this host.
struct RdmaPort {
  std::string device;
  uint8_t port;
  bool is_active;
  bool is_infiniband;
};

/// How queue pairs are set up, as NCCL's variables of these names say for its own.
struct VerbsParameters {
  /// NCCL_IB_GID_INDEX: which GID of a port; none to have it chosen.
  std::optional<int> gid_index;
  /// NCCL_IB_TC: of all packets, on RoCE and on routed InfiniBand. Its upper six bits are the DSCP.
  uint8_t traffic_class = 0;
  /// NCCL_IB_SL.
  uint8_t service_level = 0;
  /// NCCL_IB_PKEY: index in the port's table of partition keys.
  uint16_t pkey_index = 0;
  /// NCCL_IB_TIMEOUT: a packet is sent again after 4.096 µs * 2^timeout without an answer. 16 is 0.27 s.
  uint8_t timeout = 16;
  /// NCCL_IB_RETRY_CNT: so often. Peers that die are noticed by their control connection, so this may outlast a link
  /// that is down for two seconds.
  uint8_t retries = 7;
  /// NCCL_IB_PCI_RELAXED_ORDERING: the card may reorder what it writes to memory, which some processors and virtual
  /// machines need for full speed. Completions still come after the bytes. Devices without it ignore it.
  bool relaxed_ordering = true;
};

/// All of them, in the library's order; none if there is no library. `why` says why there are none.
std::vector<RdmaPort> ListRdmaPorts(std::string* why);

/// An open port of an RDMA device, with a protection domain.
class VerbsDevice {
 public:
  /// Throws ENODEV, or the system's error.
  VerbsDevice(const std::string& device, uint8_t port, const VerbsParameters& parameters);
  ~VerbsDevice();
  VerbsDevice(const VerbsDevice&) = delete;
  VerbsDevice& operator=(const VerbsDevice&) = delete;

  const VerbsLibrary& library() const { return library_; }
  ibv::Context* context() const { return context_; }
  ibv::Pd* domain() const { return domain_; }
  const RdmaPortAddress& address() const { return address_; }
  int gid_index() const { return gid_index_; }
  const VerbsParameters& parameters() const { return parameters_; }
  /// How many reads of its memory it answers at the same time on one queue pair, and how many it has in flight itself.
  uint8_t reads_answered() const { return reads_answered_; }
  uint8_t reads_in_flight() const { return reads_in_flight_; }
  /// "mlx5_0:1"
  std::string name() const { return address_.device + ":" + std::to_string(address_.port); }

 private:
  void Open();
  void ChooseGid(const ibv::PortAttr& port, std::optional<int> gid_index);

  const VerbsLibrary& library_;
  const VerbsParameters parameters_;
  RdmaPortAddress address_;
  ibv::Context* context_ = nullptr;
  ibv::Pd* domain_ = nullptr;
  int gid_index_ = 0;
  uint8_t reads_answered_ = 1;
  uint8_t reads_in_flight_ = 1;
};

/// A mapping registered with one device; deregistered when destroyed, from when on the device cannot reach it.
class MemoryRegion {
 public:
  /// Throws ENOMEM with what to raise, or another error of the system. `name` is of the memory.
  MemoryRegion(std::shared_ptr<VerbsDevice> device, void* memory, uint64_t bytes, int access, const std::string& name);
  ~MemoryRegion();
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;

  uint32_t local_key() const { return region_->lkey; }
  uint32_t remote_key() const { return region_->rkey; }

 private:
  const std::shared_ptr<VerbsDevice> device_;
  ibv::Mr* const region_;
};

/// A page of memory that holds nothing else, so that it may be registered.
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
/// much memory; do it on a thread that no caller waits for. Safe among threads.
class VerbsHost {
 public:
  /// Device and number of each port. Throws as VerbsDevice.
  VerbsHost(const std::vector<std::pair<std::string, uint8_t>>& ports, const VerbsParameters& parameters);
  ~VerbsHost();
  VerbsHost(const VerbsHost&) = delete;
  VerbsHost& operator=(const VerbsHost&) = delete;

  const std::vector<std::shared_ptr<VerbsDevice>>& devices() const { return devices_; }

  /// For peers to read from.
  std::shared_ptr<RegionSet> RegisterSource(const Mapping& mapping) const;
  /// For reads to write to; once a mapping, for as long as it is mapped.
  std::shared_ptr<RegionSet> RegisterDestination(const std::shared_ptr<Mapping>& mapping);
  /// Ends all registrations and closes the devices; nothing uses this meanwhile, or after. May be called twice.
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
