#include "device/host_device.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <exception>
#include <map>
#include <new>
#include <utility>

#include "memory/segment_jobs.h"
#include "system/base.h"
#include "system/process.h"

namespace weightcast {
namespace {

constexpr uint64_t kMagic = 0x3167'646c'7473'6377;  // "wcstldg1"
/// The mutex is held for microseconds; a holder that was stopped in there must not stop the others for ever.
constexpr time_t kLockSeconds = 10;

struct Entry {
  /// 0 in an unused entry. Written last when an entry is filled and first when it is struck out, so that an entry
  /// of a process that died in between is either whole or unused.
  std::atomic<uint64_t> number;
  uint64_t bytes;
  uint64_t start_time;
  int64_t pid;

  ProcessIdentity Owner() const { return {static_cast<pid_t>(pid), start_time}; }
};

uint64_t RoundUp(uint64_t bytes) {
  return (bytes + Ledger::kGranularity - 1) / Ledger::kGranularity * Ledger::kGranularity;
}

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

struct Ledger::Page {
  uint64_t magic;
  uint64_t capacity;
  uint64_t next_number;
  pthread_mutex_t mutex;
  Entry entries[kMaxAllocations];

  explicit Page(uint64_t device_capacity) : magic(kMagic), capacity(device_capacity), next_number(1), entries{} {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    const int error = pthread_mutex_init(&mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (error != 0) throw Failure::System(error, "cannot make a mutex in shared memory");
  }
};

/// Holds the mutex. Nothing has to be mended after a holder died: sums are always computed from the entries.
class Ledger::Lock {
 public:
  Lock(Page& page, const std::string& directory) : page_(page) {
    timespec deadline{};
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += kLockSeconds;
    const int error = pthread_mutex_timedlock(&page_.mutex, &deadline);
    if (error == EOWNERDEAD) {
      pthread_mutex_consistent(&page_.mutex);
    } else if (error == ETIMEDOUT) {
      throw Failure(code::kDeadline, "another process keeps the ledger of " + directory + " locked");
    } else if (error != 0) {
      throw Failure::System(error, "cannot lock the ledger of " + directory);
    }
  }
  ~Lock() { pthread_mutex_unlock(&page_.mutex); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Page& page_;
};

namespace {

/// Makes the ledger's file in full under a name of its own and then gives it its name, which succeeds for one of
/// several processes that do so at the same time: no process ever sees a half-made ledger. Page is a private type of
/// Ledger, hence the template.
template <class Page>
void Publish(const std::string& path, uint64_t capacity) {
  // Processes that share the directory may have the same number in PID namespaces of their own.
  uint32_t unique = 0;
  FillRandom(reinterpret_cast<uint8_t*>(&unique), sizeof unique);
  const std::string draft = path + "." + std::to_string(getpid()) + "." + std::to_string(unique);
  const std::shared_ptr<Mapping> mapping = Mapping::Create(draft, sizeof(Page));
  int error = 0;
  try {
    new (mapping->data()) Page(capacity);
    if (link(draft.c_str(), path.c_str()) != 0 && errno != EEXIST) error = errno;
  } catch (...) {
    mapping->Unlink();
    throw;
  }
  mapping->Unlink();
  if (error != 0) throw Failure::System(error, "cannot make " + path);
}

}  // namespace

Ledger::Ledger(std::string directory, uint64_t capacity) : directory_(std::move(directory)) {
  const std::string path = directory_ + "/ledger";
  if (access(path.c_str(), F_OK) != 0) {
    if (capacity == 0) {
      throw Failure("ENOENT", "device " + BaseName(directory_) + " does not exist yet: it needs a capacity");
    }
    Publish<Page>(path, capacity);
  }
  mapping_ = Mapping::Open(path, true);
  page_ = reinterpret_cast<Page*>(mapping_->data());
  if (mapping_->bytes() != sizeof(Page) || page_->magic != kMagic) {
    throw Failure("EPROTO", path + " was made by another version of weightcast");
  }
  if (capacity != 0 && capacity != page_->capacity) {
    throw Failure("EINVAL", "device " + BaseName(directory_) + " has a capacity of " + ByteSize(page_->capacity) +
                                " (" + std::to_string(page_->capacity) + " bytes), not " + ByteSize(capacity) + " (" +
                                std::to_string(capacity) + " bytes)");
  }
}

DeviceMemory Ledger::Measure() {
  const Lock lock(*page_, directory_);
  RemoveDead(*page_);
  return MeasureLocked();
}

DeviceMemory Ledger::MeasureLocked() const {
  uint64_t used = 0;
  for (const Entry& entry : page_->entries) {
    if (entry.number != 0) used += entry.bytes;
  }
  return {page_->capacity - used, page_->capacity};
}

uint64_t Ledger::Add(uint64_t bytes) {
  static const ProcessIdentity self = ProcessIdentity::Self();
  const Lock lock(*page_, directory_);
  RemoveDead(*page_);
  CheckFree(bytes);
  for (Entry& entry : page_->entries) {
    if (entry.number != 0) continue;
    entry.bytes = RoundUp(bytes);
    entry.start_time = self.start_time;
    entry.pid = self.pid;
    entry.number = page_->next_number++;
    return entry.number;
  }
  throw Failure(code::kOutOfDeviceMemory,
                "device " + BaseName(directory_) + " already has " + std::to_string(kMaxAllocations) + " allocations");
}

void Ledger::Remove(uint64_t number) {
  const Lock lock(*page_, directory_);
  for (Entry& entry : page_->entries) {
    if (entry.number == number) entry.number = 0;
  }
}

void Ledger::MarkFree(uint64_t number) {
  const Lock lock(*page_, directory_);
  for (Entry& entry : page_->entries) {
    if (entry.number == number) entry.bytes = 0;
  }
}

void Ledger::MarkUsed(uint64_t number, uint64_t bytes) {
  const Lock lock(*page_, directory_);
  RemoveDead(*page_);
  CheckFree(bytes);
  for (Entry& entry : page_->entries) {
    if (entry.number == number) entry.bytes = RoundUp(bytes);
  }
}

void Ledger::CheckFree(uint64_t bytes) const {
  const DeviceMemory memory = MeasureLocked();
  if (bytes <= memory.total && RoundUp(bytes) <= memory.free) return;
  throw Failure(code::kOutOfDeviceMemory, "device " + BaseName(directory_) + ": " + ByteSize(bytes) + " wanted, " +
                                              ByteSize(memory.free) + " of " + ByteSize(memory.total) + " free");
}

void Ledger::RemoveDead(Page& page) {
  std::map<int64_t, bool> alive_by_pid;
  for (Entry& entry : page.entries) {
    if (entry.number == 0) continue;
    const auto known = alive_by_pid.find(entry.pid);
    const bool alive = known != alive_by_pid.end() ? known->second : entry.Owner().IsAlive();
    alive_by_pid[entry.pid] = alive;
    if (alive) continue;
    unlink(AllocationPath(entry.number).c_str());
    entry.number = 0;
  }
}

std::string Ledger::AllocationPath(uint64_t number) const {
  return directory_ + "/allocation-" + std::to_string(number);
}

DeviceAllocation::DeviceAllocation(std::shared_ptr<HostDevice> device, uint64_t number,
                                   std::shared_ptr<Mapping> mapping)
    : device_(std::move(device)), number_(number), mapping_(std::move(mapping)) {}

DeviceAllocation::~DeviceAllocation() {
  try {
    Free();
  } catch (const std::exception&) {
    // The ledger stays locked by another process; the entry goes when this process ends.
  }
}

void DeviceAllocation::Free() {
  if (mapping_) device_->Release(*this);
}

namespace {

/// Below this a new file costs less than looking for an old one is worth.
constexpr uint64_t kLeastKept = uint64_t{1} << 20;
/// The slots of one update: a staging slot and a link buffer, twice.
constexpr size_t kMostKept = 4;

/// In huge pages where the kernel can make them: an engine worker maps the slots again for every update, which costs it
/// a fault for each 64 KiB otherwise.
std::shared_ptr<Mapping> MakeMemory(const std::string& path, uint64_t bytes) {
  std::shared_ptr<Mapping> memory = Mapping::CreateEmpty(path, bytes);
  try {
    ReserveJob reserve(memory, 0, bytes, nullptr);
    for (size_t piece = 0; piece < reserve.pieces(); piece++) reserve.Run(piece);
  } catch (...) {
    memory->Unlink();
    throw;
  }
  return memory;
}

/// What processes left behind that were all killed is no device: its capacity must not bind the next one.
const std::string& WithoutAbandoned(const std::string& directory) {
  SharedDirectory::RemoveIfAbandoned(directory);
  return directory;
}

}  // namespace

HostDevice::HostDevice(const std::string& directory, uint64_t capacity)
    : directory_(WithoutAbandoned(directory)), ledger_(std::make_unique<Ledger>(directory, capacity)) {}

HostDevice::~HostDevice() { Close(); }

DeviceMemory HostDevice::Measure() {
  CheckOpen();
  return ledger_->Measure();
}

std::shared_ptr<DeviceAllocation> HostDevice::Allocate(uint64_t bytes) {
  CheckOpen();
  if (bytes == 0) throw Failure(code::kOutOfRange, "an allocation needs at least one byte");
  std::optional<Block> block = TakeKept(bytes);
  if (!block) block = MakeBlock(bytes);
  std::shared_ptr<DeviceAllocation> allocation(
      new DeviceAllocation(shared_from_this(), block->number, std::move(block->mapping)));
  allocations_[block->number] = allocation.get();
  return allocation;
}

std::optional<HostDevice::Block> HostDevice::TakeKept(uint64_t bytes) {
  // A block whose memory a copy still uses must not come back as someone else's.
  const auto found = std::find_if(kept_.begin(), kept_.end(), [bytes](const Block& block) {
    return block.mapping->bytes() == bytes && block.mapping.use_count() == 1;
  });
  if (found == kept_.end()) return std::nullopt;
  ledger_->MarkUsed(found->number, bytes);
  Block block = std::move(*found);
  kept_.erase(found);
  return block;
}

HostDevice::Block HostDevice::MakeBlock(uint64_t bytes) {
  const uint64_t number = ledger_->Add(bytes);
  // Outside the ledger's lock: reserving gigabytes takes a while.
  const std::string path = ledger_->AllocationPath(number);
  try {
    try {
      return {number, MakeMemory(path, bytes)};
    } catch (const Failure&) {
      // The machine may be short of the memory that kept blocks still take.
      if (kept_.empty()) throw;
      RemoveKept();
      return {number, MakeMemory(path, bytes)};
    }
  } catch (...) {
    ledger_->Remove(number);
    throw;
  }
}

void HostDevice::Release(DeviceAllocation& allocation) {
  Block block{allocation.number_, std::move(allocation.mapping_)};
  allocation.mapping_ = nullptr;
  allocations_.erase(block.number);
  if (block.mapping->bytes() < kLeastKept) {
    Remove(block);
    return;
  }
  ledger_->MarkFree(block.number);
  kept_.push_back(std::move(block));
  if (kept_.size() <= kMostKept) return;
  Remove(kept_.front());
  kept_.pop_front();
}

void HostDevice::Remove(const Block& block) {
  block.mapping->Unlink();
  ledger_->Remove(block.number);
}

void HostDevice::RemoveKept() {
  for (const Block& block : kept_) Remove(block);
  kept_.clear();
}

void HostDevice::Close() noexcept {
  if (!ledger_) return;
  // Where another process keeps the ledger locked, the entries go when this process ends.
  const auto attempt = [](auto action) {
    try {
      action();
    } catch (const std::exception&) {
    }
  };
  while (!allocations_.empty()) attempt([&] { Release(*allocations_.begin()->second); });
  attempt([&] { RemoveKept(); });
  ledger_.reset();
  directory_.Leave();
}

void HostDevice::CheckOpen() const {
  if (!ledger_) throw Failure(code::kClosed, "device " + directory_.path() + " is closed");
}

}  // namespace weightcast
