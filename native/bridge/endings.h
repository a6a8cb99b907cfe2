#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

namespace weightcast {

/// What has to be done when the JavaScript environment ends with native objects still alive: threads joined, device
/// memory given back, shared directories left. The garbage collector does not do it, because process.exit() and an
/// uncaught error run no finalizers.
class Endings : public std::enable_shared_from_this<Endings> {
 public:
  /// `before` is called once before the first ending.
  explicit Endings(std::function<void()> before) : before_(std::move(before)) {}

  /// Takes the ending back when destroyed.
  class Registration {
   public:
    Registration() = default;
    Registration(Registration&& other) noexcept = default;
    Registration& operator=(Registration&& other) noexcept {
      std::swap(endings_, other.endings_);
      std::swap(position_, other.position_);
      return *this;
    }
    ~Registration();

   private:
    friend class Endings;
    std::shared_ptr<Endings> endings_;
    std::list<std::function<void()>>::iterator position_;
  };

  /// `ending` is called at most once, on the JavaScript thread or in exit(3), and must not throw.
  Registration Add(std::function<void()> ending);
  /// Calls all endings, the youngest first.
  void EndAll() noexcept;

 private:
  std::mutex mutex_;
  std::function<void()> before_;
  std::list<std::function<void()>> endings_;
};

/// Has `endings` run in exit(3), unless they are run or destroyed before.
void EndAtExit(const std::shared_ptr<Endings>& endings);

}  // namespace weightcast
