#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fabric/fabric_address.h"
#include "fabric/verbs/verbs_library.h"
#include "memory/mapping.h"

namespace weightcast {

/// A port of an RDMA device of this host.
struct RdmaPort {
  std::string device;
  uint8_t port;
  bool is_active;
  bool is_infiniband;
};

/// All of them, in the order of the library; none if there is no library. `why` says why there are none.
std::vector<RdmaPort> ListRdmaPorts(std::string* why);

/// An open port of an RDMA device, with a protection domain.
class VerbsDevice {
 public:
  /// `gid_index` as NCCL_IB_GID_INDEX. Throws ENODEV, or the system's error.
  VerbsDevice(const std::string& device, uint8_t port, std::optional<int> gid_index);
  ~VerbsDevice();
  VerbsDevice(const VerbsDevice&) = delete;
  VerbsDevice& operator=(const VerbsDevice&) = delete;

  const VerbsLibrary& library() const { return library_; }
  ibv::Context* context() const { return context_; }
  ibv::Pd* domain() const { return domain_; }
  const RdmaPortAddress& address() const { return address_; }
  int gid_index() const { return gid_index_; }
  /// How many reads of its memory it answers at the same time on one queue pair, and how many it has in flight itself.
  uint8_t reads_answered() const { return reads_answered_; }
  uint8_t reads_in_flight() const { return reads_in_flight_; }
  /// "mlx5_0:1"
  std::string name() const { return address_.device + ":" + std::to_string(address_.port); }

 private:
  void Open();
  void ChooseGid(const ibv::PortAttr& port, std::optional<int> gid_index);

  const VerbsLibrary& library_;
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

}  // namespace weightcast
