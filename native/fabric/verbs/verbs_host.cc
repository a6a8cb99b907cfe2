#include "fabric/verbs/verbs_host.h"

#include <sys/mman.h>

#include <cerrno>

#include "system/failure.h"

namespace weightcast {
namespace {

std::vector<std::shared_ptr<VerbsDevice>> OpenAll(const std::vector<std::pair<std::string, uint8_t>>& ports,
                                                  std::optional<int> gid_index) {
  std::vector<std::shared_ptr<VerbsDevice>> devices;
  for (const auto& [device, port] : ports) devices.push_back(std::make_shared<VerbsDevice>(device, port, gid_index));
  return devices;
}

}  // namespace

PrivatePage::PrivatePage() {
  void* const page = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw Failure::System(errno, "cannot get a page of memory");
  words_ = static_cast<uint64_t*>(page);
}

PrivatePage::~PrivatePage() { munmap(words_, kBytes); }

RegionSet::RegionSet(const std::vector<std::shared_ptr<VerbsDevice>>& devices, void* memory, uint64_t bytes,
                     int access, const std::string& name)
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

VerbsHost::VerbsHost(const std::vector<std::pair<std::string, uint8_t>>& ports, std::optional<int> gid_index)
    : devices_(OpenAll(ports, gid_index)) {
  *probe_page_.words() = kProbeWord;
  probe_source_ = std::make_unique<RegionSet>(devices_, probe_page_.words(), PrivatePage::kBytes,
                                              ibv::kAccessRemoteRead, "a page");
}

VerbsHost::~VerbsHost() { Close(); }

std::shared_ptr<RegionSet> VerbsHost::RegisterSource(const Mapping& mapping) const {
  return std::make_shared<RegionSet>(devices_, mapping.data(), mapping.bytes(), ibv::kAccessRemoteRead,
                                     mapping.path());
}

std::shared_ptr<RegionSet> VerbsHost::RegisterDestination(const std::shared_ptr<Mapping>& mapping) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // A set that is gone went with its mapping, and another one may lie at the same address now.
  for (auto at = destinations_.begin(); at != destinations_.end();) {
    at = at->second.expired() ? destinations_.erase(at) : std::next(at);
  }
  if (auto known = destinations_[mapping.get()].lock()) return known;
  auto regions = std::make_shared<RegionSet>(devices_, mapping->data(), mapping->bytes(), ibv::kAccessLocalWrite,
                                             mapping->path());
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
