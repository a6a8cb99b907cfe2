#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "system/base.h"

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

/// Settles promises of one JavaScript environment from native threads. One thread-safe function serves all of them;
/// it keeps the event loop alive while a promise is pending and not otherwise.
///
/// Made, used and destroyed on the JavaScript thread; only the Done that Begin() returns is called elsewhere.
class Settler {
 public:
  /// Makes the value a promise resolves with, on the JavaScript thread, when the work went well.
  using ToValue = std::function<Napi::Value(Napi::Env, const Outcome&)>;
  /// Starts native work that calls `done` when it ends.
  using Start = std::function<void(Done done)>;

  explicit Settler(Napi::Env env);

  /// Starts work and returns its promise. Objects in `kept` live until it settles. What `start` throws, an argument
  /// out of range for instance, rejects the promise: a function that returns a promise never throws.
  Napi::Promise Run(Napi::Env env, const Start& start, const std::vector<Napi::Value>& kept, ToValue to_value);

  /// After a call of the returned function, which may outlive the settler, outcomes are dropped.
  std::function<void()> Closer() const;

 private:
  struct Pending {
    Napi::Promise::Deferred deferred;
    std::vector<Napi::ObjectReference> kept;
    ToValue to_value;
  };
  struct Message {
    uint64_t number;
    Outcome outcome;
  };
  /// What native threads hold: it outlives the settler.
  struct Channel;

  static void OnMessage(Napi::Env env, Napi::Function, Settler* settler, Message* message);
  using Function = Napi::TypedThreadSafeFunction<Settler, Message, OnMessage>;

  void Settle(Napi::Env env, const Message& message);
  Pending Take(Napi::Env env, uint64_t number);

  const std::shared_ptr<Channel> channel_;
  std::unordered_map<uint64_t, Pending> pending_;
  uint64_t last_number_ = 0;
};

/// { startedAt, endedAt }
Napi::Value IntervalValue(Napi::Env env, const Outcome& outcome);

/// What the addon keeps for each JavaScript environment that has loaded it (the main one, worker threads).
class Environment {
 public:
  explicit Environment(Napi::Env env);

  static Environment& Of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  Settler& settler() { return settler_; }
  Endings& endings() { return *endings_; }

  /// Constructors of the classes whose objects native code makes.
  Napi::FunctionReference mapping_class;
  Napi::FunctionReference device_buffer_class;
  Napi::FunctionReference cuda_buffer_class;
  Napi::FunctionReference exposure_class;
  Napi::FunctionReference fabric_peer_class;

 private:
  Settler settler_;
  const std::shared_ptr<Endings> endings_;
};

}  // namespace weightcast
