#include "collective/control_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "system/failure.h"
#include "system/unique_fd.h"

namespace weightcast {
namespace {

void EnsureFile(const std::string& path, uint64_t bytes) {
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) throw Failure::System(errno, "cannot open " + path);
  // Not ftruncate(2), which could shrink the file under a rank that has mapped it. This only ever grows it, and
  // reserves the pages.
  int error;
  do {
    error = posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
  } while (error == EINTR);
  if (error != 0) throw Failure::System(error, "cannot reserve " + path);
}

}  // namespace

ControlFile::ControlFile(const std::string& path, uint32_t world_size) : world_size_(world_size) {
  if (world_size == 0 || world_size > kMaxWorldSize) {
    throw Failure(code::kOutOfRange, "a collective has 1 to " + std::to_string(kMaxWorldSize) + " ranks, not " +
                                         std::to_string(world_size));
  }
  const uint64_t bytes = sizeof(ControlPage) + world_size * sizeof(RankState);
  EnsureFile(path, bytes);
  mapping_ = Mapping::Open(path, true);
  mapping_->CheckRange(0, bytes);
  uint32_t agreed = 0;
  if (!page().world_size.compare_exchange_strong(agreed, world_size) && agreed != world_size) {
    throw Failure("EINVAL", path + " is for " + std::to_string(agreed) + " ranks, not " +
                                std::to_string(world_size));
  }
}

void ControlFile::Join(uint32_t rank) {
  RankState& state = this->rank(rank);
  uint32_t absent = RankState::kAbsent;
  if (!state.phase.compare_exchange_strong(absent, RankState::kJoining)) {
    throw Failure("EEXIST", "rank " + std::to_string(rank) + " has joined " + path() + " before");
  }
  const ProcessIdentity self = ProcessIdentity::Self();
  state.pid = self.pid;
  state.start_time = self.start_time;
  state.phase.store(RankState::kJoined, std::memory_order_release);
}

void ControlFile::Leave(uint32_t rank) {
  this->rank(rank).phase.store(RankState::kLeft, std::memory_order_release);
  WakeAll();
  if (page().left.fetch_add(1) + 1 == world_size_) mapping_->Unlink();
}

void ControlFile::End(const Cause& cause) {
  uint64_t sound = 0;
  page().cause.compare_exchange_strong(sound, cause.Packed(), std::memory_order_acq_rel);
  WakeAll();
}

void ControlFile::WakeAll() {
  page().announced.Ring();
  page().completed.Ring();
}

}  // namespace weightcast
