#include "collective/host_copy.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "memory/stream_copy.h"
#include "system/failure.h"

namespace weightcast {
namespace {

/// How much is copied before it is checked whether the collective has ended.
constexpr uint64_t kCopyStep = uint64_t{4} << 20;

void CheckPath(const std::string& path) {
  if (!path.empty() && path.front() == '/' && path.size() < Announcement::kNameBytes) return;
  throw Failure("EINVAL", "the source's path must be absolute and shorter than " +
                              std::to_string(Announcement::kNameBytes) + " bytes: " + path);
}

}  // namespace

HostCopy::HostCopy(Places places, std::shared_ptr<SourceCache> sources)
    : places_(std::move(places)), sources_(std::move(sources)) {
  places_.destination->CheckRange(places_.destination_offset, places_.bytes);
  places_.destination->CheckWritable();
  if (!places_.source) return;
  places_.source->CheckRange(places_.source_offset, places_.bytes);
  CheckPath(places_.source->path());
}

void HostCopy::Announce(Announcement& announcement) const {
  announcement.identity[0] = places_.source->file().device;
  announcement.identity[1] = places_.source->file().inode;
  announcement.offset = places_.source_offset;
  const std::string& path = places_.source->path();
  std::memcpy(announcement.name, path.c_str(), path.size() + 1);
}

void HostCopy::CopyOwn(const Check& check) { Copy(*places_.source, places_.source_offset, check); }

void HostCopy::CopyAnnounced(const Announcement& announcement, const Check& check) {
  const FileId file{static_cast<dev_t>(announcement.identity[0]), static_cast<ino_t>(announcement.identity[1])};
  const std::shared_ptr<Mapping> source = sources_->Open(announcement.name, file);
  source->CheckRange(announcement.offset, places_.bytes);
  Copy(*source, announcement.offset, check);
}

void HostCopy::Copy(const Mapping& source, uint64_t source_offset, const Check& check) {
  const Mapping& destination = *places_.destination;
  if (source.file() == destination.file()) {
    const uint64_t low = std::min(source_offset, places_.destination_offset);
    const uint64_t high = std::max(source_offset, places_.destination_offset);
    if (low == high) return;
    if (high - low < places_.bytes) {
      throw Failure("EINVAL", "source and destination of a broadcast overlap in " + source.path());
    }
  }
  for (uint64_t copied = 0; copied < places_.bytes; copied += kCopyStep) {
    check();
    StreamCopy(destination.data() + places_.destination_offset + copied, source.data() + source_offset + copied,
               std::min(kCopyStep, places_.bytes - copied));
  }
}

}  // namespace weightcast
