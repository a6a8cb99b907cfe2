#include "device/ledger.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <ctime>
#include <map>
#include <new>
#include <utility>

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

}  // namespace weightcast
