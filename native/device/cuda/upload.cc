#include "device/cuda/upload.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "memory/mapped_access.h"
#include "system/base.h"
#include "system/faults.h"

namespace weightcast::cuda {
namespace {

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

/// Its parts are page-locked from Lock() until Unlock() or its end. Jobs on one file do not overlap, so that no two
/// threads are ever in one part.
class PinnedMappings::PinnedMapping {
 public:
  PinnedMapping(std::shared_ptr<const PrimaryContext> context, std::shared_ptr<Mapping> mapping,
                std::shared_ptr<std::atomic<uint64_t>> total)
      : context_(std::move(context)),
        mapping_(std::move(mapping)),
        total_(std::move(total)),
        locked_((mapping_->bytes() + kPinnedPart - 1) / kPinnedPart) {}
  ~PinnedMapping() { Unlock(); }
  PinnedMapping(const PinnedMapping&) = delete;
  PinnedMapping& operator=(const PinnedMapping&) = delete;

  /// How many Pin() have not ended. Under the table's mutex.
  int pins = 0;

  /// What orders the jobs on one file.
  Span span() const { return {mapping_->file(), 0, mapping_->bytes(), true}; }
  size_t parts() const { return locked_.size(); }

  /// Does nothing to a part that is locked: its pages have their places already, and looking at each again would take
  /// as long as a tenth of an update.
  void Lock(size_t part) {
    if (locked_[part]) return;
    faults::StrikeOrThrow(faults::Point::kPin);
    // The driver would put the pages into the process's page table itself, one page fault after the other. Kernels
    // before 5.14 leave that to it.
    madvise(Start(part), BytesOf(part), kPopulateRead);
    const Driver& driver = context_->driver();
    const CurrentContext current(driver, context_->context());
    const Result result = driver.cuMemHostRegister(Start(part), BytesOf(part), FlagsFor(*context_));
    const std::string attempt = "cannot page-lock " + mapping_->path() + " (" + ByteSize(mapping_->bytes()) + ")";
    // The host's memory: OUT_OF_DEVICE_MEMORY would make a planner take smaller slots.
    if (result == kErrorOutOfMemory) {
      throw Failure(code::kCuda, attempt + ": " + driver.ErrorText(result) + "; that is memory of the host");
    }
    driver.Check(result, attempt);
    locked_[part] = true;
    *total_ += BytesOf(part);
  }

  /// May be called twice.
  void Unlock() {
    for (size_t part = 0; part < parts(); part++) {
      if (!locked_[part]) continue;
      context_->TryInContext([&] { context_->driver().cuMemHostUnregister(Start(part)); });
      locked_[part] = false;
      *total_ -= BytesOf(part);
    }
  }

 private:
  uint8_t* Start(size_t part) const { return mapping_->data() + part * kPinnedPart; }
  uint64_t BytesOf(size_t part) const { return std::min(kPinnedPart, mapping_->bytes() - part * kPinnedPart); }

  const std::shared_ptr<const PrimaryContext> context_;
  const std::shared_ptr<Mapping> mapping_;
  const std::shared_ptr<std::atomic<uint64_t>> total_;
  std::vector<std::atomic<bool>> locked_;
};

struct PinnedMappings::Table {
  std::mutex mutex;
  std::map<const Mapping*, std::shared_ptr<PinnedMapping>> mappings;
  const std::shared_ptr<std::atomic<uint64_t>> total = std::make_shared<std::atomic<uint64_t>>(0);

  /// One Pin() of the mapping has ended. A failure takes the mapping off the table, unless another Pin() of it follows,
  /// which tries again.
  std::shared_ptr<PinnedMapping> EndPin(const Mapping* mapping, const std::weak_ptr<PinnedMapping>& pinned,
                                        bool failed) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = mappings.find(mapping);
    if (found == mappings.end() || found->second != pinned.lock()) return nullptr;
    if (--found->second->pins > 0 || !failed) return nullptr;
    std::shared_ptr<PinnedMapping> removed = std::move(found->second);
    mappings.erase(found);
    return removed;
  }

  std::shared_ptr<PinnedMapping> Remove(const Mapping* mapping) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = mappings.find(mapping);
    if (found == mappings.end()) return nullptr;
    std::shared_ptr<PinnedMapping> removed = std::move(found->second);
    mappings.erase(found);
    return removed;
  }
};

/// Jobs on the same file run in the order they were submitted, because each says that it writes all of it.
class PinnedMappings::PinJob : public Job {
 public:
  explicit PinJob(std::shared_ptr<PinnedMapping> mapping) : mapping_(std::move(mapping)), spans_({mapping_->span()}) {}

  size_t pieces() const override { return mapping_->parts(); }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t piece) override { mapping_->Lock(piece); }

 private:
  const std::shared_ptr<PinnedMapping> mapping_;
  const std::vector<Span> spans_;
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
    entry->pins++;
    pinned = entry;
  }
  // Weak: what this holds is released after `done` only, when the caller may have unpinned and closed the mapping.
  auto finish = [table = table_, key, pinned = std::weak_ptr(pinned), done = std::move(done)](const Outcome& outcome) {
    // What was locked before a failure is unlocked here.
    table->EndPin(key, pinned, outcome.failure.has_value());
    done(outcome);
  };
  threads_.Submit(std::make_shared<PinJob>(std::move(pinned)), std::move(finish));
}

void PinnedMappings::Unpin(const Mapping& mapping, Done done) {
  std::shared_ptr<PinnedMapping> removed = table_->Remove(&mapping);
  if (!removed) return done({});
  SubmitUnlock(std::move(removed), std::move(done));
}

uint64_t PinnedMappings::bytes() const { return *table_->total; }

void PinnedMappings::Close() noexcept {
  if (!context_) return;
  std::map<const Mapping*, std::shared_ptr<PinnedMapping>> all;
  {
    const std::lock_guard<std::mutex> lock(table_->mutex);
    all.swap(table_->mappings);
  }
  for (auto& [key, mapping] : all) SubmitUnlock(std::move(mapping), [](const Outcome&) {});
  threads_.Close();
  context_.reset();
}

void PinnedMappings::SubmitUnlock(std::shared_ptr<PinnedMapping> mapping, Done done) {
  threads_.Submit(std::make_shared<UnpinJob>(std::move(mapping)), std::move(done));
}

namespace {

/// Copies do not overlap, so their order is free.
std::vector<RectangleCopy> Merge(std::vector<RectangleCopy> copies) {
  std::sort(copies.begin(), copies.end(), [](const RectangleCopy& left, const RectangleCopy& right) {
    return left.destination_offset < right.destination_offset;
  });
  std::vector<RectangleCopy> merged;
  for (const RectangleCopy& copy : copies) {
    if (copy.rows == 0 || copy.row_bytes == 0) continue;
    if (!merged.empty()) {
      RectangleCopy& last = merged.back();
      const bool adjacent = last.rows == 1 && copy.rows == 1 &&
                            last.source_offset + last.row_bytes == copy.source_offset &&
                            last.destination_offset + last.row_bytes == copy.destination_offset;
      if (adjacent) {
        last.row_bytes += copy.row_bytes;
        continue;
      }
    }
    merged.push_back(copy);
  }
  return merged;
}

/// The first `rows` rows of a copy, taken off it.
RectangleCopy TakeRows(RectangleCopy& copy, uint64_t rows) {
  RectangleCopy taken = copy;
  taken.rows = rows;
  copy.rows -= rows;
  copy.source_offset += rows * copy.source_pitch;
  copy.destination_offset += rows * copy.destination_pitch;
  return taken;
}

/// Adds a row, in pieces that each lie in one part of a pinned mapping.
void AddRow(std::vector<RectangleCopy>& cut, RectangleCopy row) {
  while (row.row_bytes > 0) {
    RectangleCopy piece = row;
    piece.row_bytes = std::min(row.row_bytes, kPinnedPart - row.source_offset % kPinnedPart);
    cut.push_back(piece);
    row.row_bytes -= piece.row_bytes;
    row.source_offset += piece.row_bytes;
    row.destination_offset += piece.row_bytes;
  }
}

/// The copies, none of which reaches from one part of a pinned mapping into the next.
std::vector<RectangleCopy> CutAtParts(const std::vector<RectangleCopy>& copies) {
  std::vector<RectangleCopy> cut;
  for (RectangleCopy copy : copies) {
    while (copy.rows > 0) {
      const uint64_t left = kPinnedPart - copy.source_offset % kPinnedPart;
      if (copy.rows == 1 || copy.row_bytes > left) {
        AddRow(cut, TakeRows(copy, 1));
        continue;
      }
      // A pitch of 0 is a row that is copied many times.
      const uint64_t fitting = copy.source_pitch == 0 ? copy.rows : (left - copy.row_bytes) / copy.source_pitch + 1;
      cut.push_back(TakeRows(copy, std::min(copy.rows, fitting)));
    }
  }
  return cut;
}

}  // namespace

Upload::Upload(std::vector<SegmentCopies> segments, std::shared_ptr<const DeviceBlock> destination)
    : segments_(std::move(segments)), destination_(std::move(destination)) {
  const PrimaryContext& context = destination_->context();
  int max_pitch = 0;
  context.driver().Check(context.driver().cuDeviceGetAttribute(&max_pitch, kAttributeMaxPitch, context.device()),
                         "cannot ask a device its largest pitch");
  max_pitch_ = static_cast<size_t>(max_pitch);
  for (SegmentCopies& each : segments_) {
    each.rectangles =
        CutAtParts(Merge(CheckedCopies(std::move(each.rectangles), each.segment->bytes(), destination_->bytes())));
    for (const RectangleCopy& copy : each.rectangles) bytes_ += copy.row_bytes * copy.rows;
  }
}

void Upload::Enqueue(Stream stream) const {
  const Driver& driver = destination_->context().driver();
  for (const SegmentCopies& each : segments_) {
    // From memory that is not pinned the driver copies here and now.
    const MappedAccess reading(*each.segment);
    for (const RectangleCopy& copy : each.rectangles) {
      faults::StrikeOrThrow(faults::Point::kUpload);
      const uint8_t* const source = each.segment->data() + copy.source_offset;
      if (copy.rows > 1) {
        EnqueueRows(source, copy, stream);
        continue;
      }
      const Result result =
          driver.cuMemcpyHtoDAsync(destination_->pointer() + copy.destination_offset, source, copy.row_bytes, stream);
      if (result != kSuccess) throw driver.FailureOf(result, "cannot upload from " + each.segment->path());
    }
    reading.Finish();
  }
}

void Upload::EnqueueRows(const uint8_t* source, const RectangleCopy& copy, Stream stream) const {
  const Driver& driver = destination_->context().driver();
  const DevicePointer destination = destination_->pointer() + copy.destination_offset;
  if (std::max(copy.source_pitch, copy.destination_pitch) <= max_pitch_) {
    Copy2D rows{};
    rows.source_type = kMemoryHost;
    rows.source_host = source;
    rows.source_pitch = copy.source_pitch;
    rows.destination_type = kMemoryDevice;
    rows.destination_device = destination;
    rows.destination_pitch = copy.destination_pitch;
    rows.row_bytes = copy.row_bytes;
    rows.rows = copy.rows;
    driver.Check(driver.cuMemcpy2DAsync(&rows, stream), "cannot upload rows");
    return;
  }
  for (uint64_t row = 0; row < copy.rows; row++) {
    driver.Check(driver.cuMemcpyHtoDAsync(destination + row * copy.destination_pitch, source + row * copy.source_pitch,
                                          copy.row_bytes, stream),
                 "cannot upload a row");
  }
}

}  // namespace weightcast::cuda
