#include "fabric/verbs/verbs_device.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "fabric/verbs/gid_table.h"
#include "system/byte_size.h"
#include "system/failure.h"

namespace weightcast {
namespace {

/// More than that does not make reads faster, and queue pairs larger.
constexpr int kMostReads = 16;

const VerbsLibrary& LoadedLibrary() {
  std::string why;
  const VerbsLibrary* const library = VerbsLibrary::Load(&why);
  if (library == nullptr) throw Failure("ENODEV", "there is no RDMA here: " + why);
  return *library;
}

/// The library's list of devices.
class DeviceList {
 public:
  explicit DeviceList(const VerbsLibrary& library) : library_(library), list_(library.get_device_list(&count_)) {}
  ~DeviceList() {
    if (list_ != nullptr) library_.free_device_list(list_);
  }
  DeviceList(const DeviceList&) = delete;
  DeviceList& operator=(const DeviceList&) = delete;

  ibv::Device** begin() const { return list_; }
  ibv::Device** end() const { return list_ == nullptr ? list_ : list_ + count_; }

 private:
  const VerbsLibrary& library_;
  int count_ = 0;
  ibv::Device** const list_;
};

void AppendPorts(const VerbsLibrary& library, ibv::Device* device, std::vector<RdmaPort>& ports) {
  ibv::Context* const context = library.open_device(device);
  // One that cannot be opened, for lack of rights for instance, is none of ours.
  if (context == nullptr) return;
  ibv::DeviceAttr attributes{};
  if (library.query_device(context, &attributes) == 0) {
    for (uint8_t number = 1; number <= attributes.phys_port_cnt; number++) {
      ibv::PortAttr port{};
      if (library.query_port(context, number, &port) != 0) continue;
      ports.push_back({library.get_device_name(device), number, port.state == ibv::kPortActive,
                       port.link_layer == ibv::kLinkLayerInfiniBand});
    }
  }
  library.close_device(context);
}

uint8_t ReadsOf(int limit) { return static_cast<uint8_t>(std::clamp(limit, 1, kMostReads)); }

std::string LockedMemoryLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "unknown";
  return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : ByteSize(limit.rlim_cur);
}

}  // namespace

std::vector<RdmaPort> ListRdmaPorts(std::string* why) {
  std::vector<RdmaPort> ports;
  const VerbsLibrary* const library = VerbsLibrary::Load(why);
  if (library == nullptr) return ports;
  for (ibv::Device* const device : DeviceList(*library)) AppendPorts(*library, device, ports);
  if (ports.empty()) *why = "libibverbs finds no device that this process may open";
  return ports;
}

VerbsDevice::VerbsDevice(const std::string& device, uint8_t port, std::optional<int> gid_index)
    : library_(LoadedLibrary()) {
  address_.device = device;
  address_.port = port;
  Open();
  try {
    ibv::DeviceAttr attributes{};
    int error = library_.query_device(context_, &attributes);
    if (error != 0) throw Failure::System(error, "cannot query " + device);
    ibv::PortAttr found{};
    error = library_.query_port(context_, port, &found);
    if (error != 0) throw Failure::System(error, "cannot query port " + name());
    if (found.state != ibv::kPortActive) throw Failure("ENETDOWN", "the RDMA port " + name() + " is not active");
    address_.lid = found.lid;
    address_.mtu = static_cast<uint8_t>(found.active_mtu);
    address_.link_layer = found.link_layer;
    reads_answered_ = ReadsOf(attributes.max_qp_rd_atom);
    reads_in_flight_ = ReadsOf(attributes.max_qp_init_rd_atom);
    ChooseGid(found, gid_index);
    domain_ = library_.alloc_pd(context_);
    if (domain_ == nullptr) throw Failure::System(errno, "cannot use " + name());
  } catch (...) {
    library_.close_device(context_);
    throw;
  }
}

VerbsDevice::~VerbsDevice() {
  library_.dealloc_pd(domain_);
  library_.close_device(context_);
}

void VerbsDevice::Open() {
  for (ibv::Device* const each : DeviceList(library_)) {
    if (library_.get_device_name(each) != address_.device) continue;
    context_ = library_.open_device(each);
    if (context_ == nullptr) throw Failure::System(errno, "cannot open the RDMA device " + address_.device);
    return;
  }
  throw Failure("ENODEV", "there is no RDMA device " + address_.device);
}

void VerbsDevice::ChooseGid(const ibv::PortAttr& port, std::optional<int> gid_index) {
  const bool is_roce = port.link_layer == ibv::kLinkLayerEthernet;
  std::optional<int> index = gid_index;
  if (!index) index = is_roce ? RoceGidIndex(address_.device, address_.port, port.gid_tbl_len) : 0;
  if (!index) {
    throw Failure("EADDRNOTAVAIL", "the RDMA port " + name() +
                                       " has no RoCE v2 GID: is its network interface up, with an IP address?");
  }
  gid_index_ = *index;
  const int error = library_.query_gid(context_, address_.port, gid_index_, address_.gid.data());
  const bool is_empty = address_.gid == Gid{};
  if (is_roce && (error != 0 || is_empty)) {
    throw Failure("EADDRNOTAVAIL", "GID " + std::to_string(gid_index_) + " of the RDMA port " + name() + " is not set");
  }
}

namespace {

ibv::Mr* Register(const VerbsDevice& device, void* memory, uint64_t bytes, int access, const std::string& name) {
  ibv::Mr* const region = device.library().reg_mr(device.domain(), memory, bytes, access);
  if (region != nullptr) return region;
  const int error = errno;
  std::string attempt = "cannot register " + name + " (" + ByteSize(bytes) + ") with " + device.name();
  if (error == ENOMEM || error == EPERM) {
    attempt += "; this process may lock " + LockedMemoryLimit() +
               " of memory: raise `ulimit -l` (memlock in limits.conf, LimitMEMLOCK= in systemd, "
               "--ulimit memlock=-1 in Docker)";
  }
  throw Failure::System(error, attempt);
}

}  // namespace

MemoryRegion::MemoryRegion(std::shared_ptr<VerbsDevice> device, void* memory, uint64_t bytes, int access,
                           const std::string& name)
    : device_(std::move(device)), region_(Register(*device_, memory, bytes, access, name)) {}

MemoryRegion::~MemoryRegion() { device_->library().dereg_mr(region_); }

}  // namespace weightcast
