#include "bridge/endings.h"

#include <cstdlib>
#include <utility>
#include <vector>

namespace weightcast {
namespace {

/// All environments of the process: the main one and those of worker threads.
struct ProcessEndings {
  std::mutex mutex;
  std::vector<std::weak_ptr<Endings>> all;
};

ProcessEndings& Process() {
  // Never destroyed, so that it is there whenever exit(3) gets to it.
  static auto* const process = new ProcessEndings;
  return *process;
}

void EndProcess() {
  std::vector<std::weak_ptr<Endings>> all;
  {
    const std::lock_guard<std::mutex> lock(Process().mutex);
    all.swap(Process().all);
  }
  for (const std::weak_ptr<Endings>& each : all) {
    if (const std::shared_ptr<Endings> endings = each.lock()) endings->EndAll();
  }
}

}  // namespace

Endings::Registration::~Registration() {
  if (!endings_) return;
  // The function is destroyed after the lock is released.
  std::list<std::function<void()>> removed;
  const std::lock_guard<std::mutex> lock(endings_->mutex_);
  removed.splice(removed.begin(), endings_->endings_, position_);
}

Endings::Registration Endings::Add(std::function<void()> ending) {
  const std::lock_guard<std::mutex> lock(mutex_);
  endings_.push_back(std::move(ending));
  Registration registration;
  registration.endings_ = shared_from_this();
  registration.position_ = std::prev(endings_.end());
  return registration;
}

void Endings::EndAll() noexcept {
  // One that has been called stays in the list, as an empty function, until its registration goes.
  std::vector<std::function<void()>> calls;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls.push_back(std::exchange(before_, nullptr));
    for (auto position = endings_.rbegin(); position != endings_.rend(); ++position) {
      calls.push_back(std::exchange(*position, nullptr));
    }
  }
  for (const std::function<void()>& ending : calls) {
    if (ending) ending();
  }
}

void EndAtExit(const std::shared_ptr<Endings>& endings) {
  static const int registered = std::atexit(EndProcess);
  static_cast<void>(registered);
  const std::lock_guard<std::mutex> lock(Process().mutex);
  std::vector<std::weak_ptr<Endings>>& all = Process().all;
  for (auto each = all.begin(); each != all.end();) each = each->expired() ? all.erase(each) : each + 1;
  all.push_back(endings);
}

}  // namespace weightcast
