#include "fabric/verbs/verbs_device.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "system/base.h"

namespace weightcast {
namespace {

/// The first line of a file; empty if it cannot be read, as for an unused entry.
std::string LineOf(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The higher, the better; 0 for what cannot be used.
int RankOf(const std::string& type, const std::string& gid) {
  if (type != "RoCE v2" || gid.empty()) return 0;
  if (gid == "0000:0000:0000:0000:0000:0000:0000:0000") return 0;
  if (gid.rfind("0000:0000:0000:0000:0000:ffff:", 0) == 0) return 3;
  return gid.rfind("fe80:", 0) == 0 ? 1 : 2;
}

/// The index in the port's table of the GID by which RoCE peers reach it: RoCE v2 with an IPv4 address if there is one,
/// else with a global IPv6 address, else with a link-local one; the lowest of the best. Nothing if there is none: its
/// network interface is down or has no address. Read from sysfs, the only place that tells v1 from v2 to every version
/// of the library.
std::optional<int> RoceGidIndex(const std::string& device, int port, int table_length) {
  const std::string base = "/sys/class/infiniband/" + device + "/ports/" + std::to_string(port);
  int best_rank = 0;
  std::optional<int> best;
  for (int index = 0; index < table_length; index++) {
    const std::string type = LineOf(base + "/gid_attrs/types/" + std::to_string(index));
    if (type.empty()) continue;
    const int rank = RankOf(type, LineOf(base + "/gids/" + std::to_string(index)));
    if (rank <= best_rank) continue;
    best_rank = rank;
    best = index;
  }
  return best;
}

}  // namespace

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

VerbsDevice::VerbsDevice(const std::string& device, uint8_t port, const VerbsParameters& parameters)
    : library_(LoadedLibrary()), parameters_(parameters) {
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
    ChooseGid(found, parameters.gid_index);
    if (parameters.pkey_index >= found.pkey_tbl_len) {
      throw Failure("EINVAL", "the RDMA port " + name() + " has " + std::to_string(found.pkey_tbl_len) +
                                  " partition keys, none at index " + std::to_string(parameters.pkey_index));
    }
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
    throw Failure("EADDRNOTAVAIL",
                  "the RDMA port " + name() + " has no RoCE v2 GID: is its network interface up, with an IP address?");
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
  const VerbsLibrary& library = device.library();
  // The plain call passes on what the kernel may not know; this one leaves it out there.
  const bool is_relaxed = device.parameters().relaxed_ordering && library.reg_mr_iova2 != nullptr;
  const auto address = reinterpret_cast<uint64_t>(memory);
  ibv::Mr* const region =
      is_relaxed ? library.reg_mr_iova2(device.domain(), memory, bytes, address,
                                        static_cast<unsigned>(access) | ibv::kAccessRelaxedOrdering)
                 : library.reg_mr(device.domain(), memory, bytes, access);
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

namespace {

std::vector<std::shared_ptr<VerbsDevice>> OpenAll(const std::vector<std::pair<std::string, uint8_t>>& ports,
                                                  const VerbsParameters& parameters) {
  std::vector<std::shared_ptr<VerbsDevice>> devices;
  for (const auto& [device, port] : ports) devices.push_back(std::make_shared<VerbsDevice>(device, port, parameters));
  return devices;
}

}  // namespace

PrivatePage::PrivatePage() {
  void* const page = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw Failure::System(errno, "cannot get a page of memory");
  words_ = static_cast<uint64_t*>(page);
}

PrivatePage::~PrivatePage() { munmap(words_, kBytes); }

RegionSet::RegionSet(const std::vector<std::shared_ptr<VerbsDevice>>& devices, void* memory, uint64_t bytes, int access,
                     const std::string& name)
    : address_(reinterpret_cast<uint64_t>(memory)) {
  for (const auto& device : devices) {
    regions_.push_back(std::make_unique<MemoryRegion>(device, memory, bytes, access, name));
    local_keys_.push_back(regions_.back()->local_key());
    remote_keys_.push_back(regions_.back()->remote_key());
  }
}

void RegionSet::Release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  regions_.clear();
}

VerbsHost::VerbsHost(const std::vector<std::pair<std::string, uint8_t>>& ports, const VerbsParameters& parameters)
    : devices_(OpenAll(ports, parameters)) {
  *probe_page_.words() = kProbeWord;
  probe_source_ =
      std::make_unique<RegionSet>(devices_, probe_page_.words(), PrivatePage::kBytes, ibv::kAccessRemoteRead, "a page");
}

VerbsHost::~VerbsHost() { Close(); }

std::shared_ptr<RegionSet> VerbsHost::RegisterSource(const Mapping& mapping) const {
  return std::make_shared<RegionSet>(devices_, mapping.data(), mapping.bytes(), ibv::kAccessRemoteRead, mapping.path());
}

std::shared_ptr<RegionSet> VerbsHost::RegisterDestination(const std::shared_ptr<Mapping>& mapping) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // A set that is gone went with its mapping, and another one may lie at the same address now.
  for (auto at = destinations_.begin(); at != destinations_.end();) {
    at = at->second.expired() ? destinations_.erase(at) : std::next(at);
  }
  if (auto known = destinations_[mapping.get()].lock()) return known;
  auto regions =
      std::make_shared<RegionSet>(devices_, mapping->data(), mapping->bytes(), ibv::kAccessLocalWrite, mapping->path());
  mapping->Keep(regions);
  destinations_[mapping.get()] = regions;
  return regions;
}

void VerbsHost::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [mapping, regions] : destinations_) {
    if (const auto found = regions.lock()) found->Release();
  }
  destinations_.clear();
  probe_source_.reset();
  devices_.clear();
}

}  // namespace weightcast
