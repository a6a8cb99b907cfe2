#include "fabric/exposure.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "fabric/address.h"
#include "system/base.h"

namespace weightcast {
namespace {

constexpr size_t kPage = 4096;
constexpr uint32_t kOpen = 1;
constexpr uint32_t kWithdrawn = 2;

UniqueFd OpenAgain(const Mapping& mapping) {
  UniqueFd file(open(mapping.path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat found{};
  if (!file || fstat(file.get(), &found) != 0) {
    throw Failure::System(errno, "cannot expose " + mapping.path());
  }
  if (!(FileId{found.st_dev, found.st_ino} == mapping.file())) {
    throw Failure("ESTALE", "cannot expose " + mapping.path() + ": another file has taken its name");
  }
  return file;
}

}  // namespace

Exposure::Exposure(std::shared_ptr<Mapping> mapping, std::shared_ptr<RegionSet> regions)
    : token_(RandomArray<Token>()),
      mapping_(std::move(mapping)),
      regions_(std::move(regions)),
      file_(OpenAgain(*mapping_)) {
  state_file_ = UniqueFd(memfd_create("weightcast-exposure", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!state_file_ || ftruncate(state_file_.get(), kPage) != 0) {
    throw Failure::System(errno, "cannot expose " + mapping_->path());
  }
  void* const page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, state_file_.get(), 0);
  if (page == MAP_FAILED) throw Failure::System(errno, "cannot expose " + mapping_->path());
  state_ = static_cast<std::atomic<uint32_t>*>(page);
  state_->store(kOpen);
  // A process that receives it cannot write. F_SEAL_FUTURE_WRITE is refused before Linux 5.1, which leaves peers
  // trusted.
  fcntl(state_file_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
}

Exposure::~Exposure() {
  if (state_ == nullptr) return;
  Withdraw();
  munmap(state_, kPage);
}

bool Exposure::is_open() const {
  // Not before the reads that went ahead of it.
  std::atomic_thread_fence(std::memory_order_acquire);
  return state_->load() == kOpen;
}

void Exposure::Withdraw() {
  state_->store(kWithdrawn);
  // Not after the writes that the caller goes on to.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

ExposureState::ExposureState(const UniqueFd& state_file) {
  struct stat found{};
  if (fstat(state_file.get(), &found) != 0 || found.st_size < static_cast<off_t>(kPage)) {
    throw Failure("EPROTO", "a peer handed over a state file that is none");
  }
  void* const page = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, state_file.get(), 0);
  if (page == MAP_FAILED) throw Failure::System(errno, "cannot map the state of a segment");
  word_ = static_cast<const std::atomic<uint32_t>*>(page);
}

ExposureState::~ExposureState() { munmap(const_cast<std::atomic<uint32_t>*>(word_), kPage); }

bool ExposureState::IsOpen() const {
  std::atomic_thread_fence(std::memory_order_acquire);
  return word_->load() == kOpen;
}

void ExposureTable::Add(std::shared_ptr<Exposure> exposure) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (exposures_.size() >= kCapacity) {
    throw Failure(code::kOverloaded, "a fabric exposes at most " + std::to_string(kCapacity) + " mappings");
  }
  const Token token = exposure->token();
  exposures_.emplace(token, std::move(exposure));
}

std::shared_ptr<Exposure> ExposureTable::Find(const Token& token) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = exposures_.find(token);
  return found == exposures_.end() ? nullptr : found->second;
}

void ExposureTable::Remove(const Token& token) {
  const std::lock_guard<std::mutex> lock(mutex_);
  exposures_.erase(token);
}

std::vector<std::shared_ptr<Exposure>> ExposureTable::TakeAll() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::shared_ptr<Exposure>> all;
  for (auto& [token, exposure] : exposures_) all.push_back(std::move(exposure));
  exposures_.clear();
  return all;
}

}  // namespace weightcast
