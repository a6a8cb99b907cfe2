#include "device/cuda/pinned_mappings.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "system/byte_size.h"

namespace weightcast::cuda {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{64} << 20;
/// MADV_POPULATE_READ, which older headers lack.
constexpr int kPopulateRead = 22;

/// The GPU only reads segments. Where it may say so, mappings for reading can be pinned at all, and all are pinned and
/// unpinned faster, because the kernel need not expect that pages change.
unsigned FlagsFor(const PrimaryContext& context) {
  int supported = 0;
  context.driver().cuDeviceGetAttribute(&supported, kAttributeReadOnlyHostRegister, context.device());
  return supported != 0 ? kHostRegisterPortable | kHostRegisterReadOnly : kHostRegisterPortable;
}

}  // namespace

/// Page-locked from Lock() until Unlock() or its end.
class PinnedMappings::PinnedMapping {
 public:
  PinnedMapping(std::shared_ptr<const PrimaryContext> context, std::shared_ptr<Mapping> mapping,
                std::shared_ptr<std::atomic<uint64_t>> total)
      : context_(std::move(context)), mapping_(std::move(mapping)), total_(std::move(total)) {}
  ~PinnedMapping() { Unlock(); }
  PinnedMapping(const PinnedMapping&) = delete;
  PinnedMapping& operator=(const PinnedMapping&) = delete;

  /// What orders the jobs on one file.
  Span span() const { return {mapping_->file(), 0, mapping_->bytes(), true}; }

  /// Kernels before 5.14 do not, and then Lock() takes longer. Pages that are locked have their places already, and
  /// looking at each again would take as long as a tenth of an update.
  void Populate(uint64_t offset, uint64_t bytes) const {
    if (locked_) return;
    madvise(mapping_->data() + offset, std::min(bytes, mapping_->bytes() - offset), kPopulateRead);
  }

  /// May be called by several threads; the first one does it and the others wait.
  void Lock() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (locked_) return;
    const Driver& driver = context_->driver();
    const CurrentContext current(driver, context_->context());
    const Result result =
        driver.cuMemHostRegister(mapping_->data(), mapping_->bytes(), FlagsFor(*context_));
    const std::string attempt = "cannot page-lock " + mapping_->path() + " (" + ByteSize(mapping_->bytes()) + ")";
    // The host's memory: OUT_OF_DEVICE_MEMORY would make a planner take smaller slots.
    if (result == kErrorOutOfMemory) {
      throw Failure(code::kCuda, attempt + ": " + driver.Words(result) + "; that is memory of the host");
    }
    driver.Check(result, attempt);
    locked_ = true;
    *total_ += mapping_->bytes();
  }

  /// May be called twice.
  void Unlock() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!locked_) return;
    context_->Quietly([this] { context_->driver().cuMemHostUnregister(mapping_->data()); });
    locked_ = false;
    *total_ -= mapping_->bytes();
  }

 private:
  const std::shared_ptr<const PrimaryContext> context_;
  const std::shared_ptr<Mapping> mapping_;
  const std::shared_ptr<std::atomic<uint64_t>> total_;
  std::mutex mutex_;
  std::atomic<bool> locked_ = false;
};

struct PinnedMappings::Table {
  std::mutex mutex;
  std::map<const Mapping*, std::shared_ptr<PinnedMapping>> mappings;
  const std::shared_ptr<std::atomic<uint64_t>> total = std::make_shared<std::atomic<uint64_t>>(0);

  std::shared_ptr<PinnedMapping> Remove(const Mapping* mapping) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = mappings.find(mapping);
    if (found == mappings.end()) return nullptr;
    std::shared_ptr<PinnedMapping> removed = std::move(found->second);
    mappings.erase(found);
    return removed;
  }
};

/// Jobs on the same file run in the order they were given, because each says that it writes all of it.
///
/// Before a mapping is locked, its pages are put into the process's page table by all threads at once: the driver would
/// do that by itself, one page fault after the other.
class PinnedMappings::PinJob : public Job {
 public:
  explicit PinJob(std::shared_ptr<PinnedMapping> mapping)
      : mapping_(std::move(mapping)), spans_({mapping_->span()}), left_(pieces()) {}

  size_t pieces() const override { return (spans_.front().end + kPieceBytes - 1) / kPieceBytes; }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override {
    mapping_->Populate(piece * kPieceBytes, kPieceBytes);
    if (left_.fetch_sub(1) == 1) mapping_->Lock();
  }

 private:
  const std::shared_ptr<PinnedMapping> mapping_;
  const std::vector<Span> spans_;
  std::atomic<size_t> left_;
};

class PinnedMappings::UnpinJob : public Job {
 public:
  explicit UnpinJob(std::shared_ptr<PinnedMapping> mapping)
      : mapping_(std::move(mapping)), spans_({mapping_->span()}) {}

  size_t pieces() const override { return 1; }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t) override { mapping_->Unlock(); }

 private:
  const std::shared_ptr<PinnedMapping> mapping_;
  const std::vector<Span> spans_;
};

PinnedMappings::PinnedMappings(std::shared_ptr<const PrimaryContext> context, unsigned threads)
    : context_(std::move(context)), table_(std::make_shared<Table>()), threads_(threads) {}

PinnedMappings::~PinnedMappings() {
  Close();
  Stop();
}

void PinnedMappings::Pin(std::shared_ptr<Mapping> mapping, Done done) {
  if (!context_) throw Failure(code::kClosed, "the device is closed");
  const Mapping* const key = mapping.get();
  std::shared_ptr<PinnedMapping> pinned;
  {
    const std::lock_guard<std::mutex> lock(table_->mutex);
    std::shared_ptr<PinnedMapping>& entry = table_->mappings[key];
    if (!entry) entry = std::make_shared<PinnedMapping>(context_, std::move(mapping), table_->total);
    pinned = entry;
  }
  auto finish = [table = table_, key, done = std::move(done)](const Outcome& outcome) {
    // The job still holds it, so nothing is unmapped in here.
    if (outcome.failure) table->Remove(key);
    done(outcome);
  };
  threads_.Give(std::make_shared<PinJob>(std::move(pinned)), std::move(finish));
}

void PinnedMappings::Unpin(const Mapping& mapping) {
  std::shared_ptr<PinnedMapping> removed = table_->Remove(&mapping);
  if (removed) GiveUnlock(std::move(removed));
}

uint64_t PinnedMappings::bytes() const { return *table_->total; }

void PinnedMappings::Close() noexcept {
  if (!context_) return;
  std::map<const Mapping*, std::shared_ptr<PinnedMapping>> all;
  {
    const std::lock_guard<std::mutex> lock(table_->mutex);
    all.swap(table_->mappings);
  }
  for (auto& [key, mapping] : all) GiveUnlock(std::move(mapping));
  threads_.Close();
  context_.reset();
}

void PinnedMappings::GiveUnlock(std::shared_ptr<PinnedMapping> mapping) {
  threads_.Give(std::make_shared<UnpinJob>(std::move(mapping)), [](const Outcome&) {});
}

}  // namespace weightcast::cuda
