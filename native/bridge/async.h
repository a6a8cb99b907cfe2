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

/// What has to be done when the JavaScript environment ends with native objects still alive: join threads, free device
/// memory, leave shared directories. The garbage collector does not do it, because process.exit() and an uncaught error
/// run no finalizers.
class CleanupHooks : public std::enable_shared_from_this<CleanupHooks> {
 public:
  /// `before` is called once before the first hook.
  explicit CleanupHooks(std::function<void()> before) : before_(std::move(before)) {}

  /// Removes the hook when destroyed.
  class Registration {
   public:
    Registration() = default;
    Registration(Registration&& other) noexcept = default;
    Registration& operator=(Registration&& other) noexcept {
      std::swap(hooks_, other.hooks_);
      std::swap(position_, other.position_);
      return *this;
    }
    ~Registration();

   private:
    friend class CleanupHooks;
    std::shared_ptr<CleanupHooks> hooks_;
    std::list<std::function<void()>>::iterator position_;
  };

  /// `hook` is called at most once, on the JavaScript thread or in exit(3), and must not throw.
  Registration Add(std::function<void()> hook);
  /// Calls all hooks, the youngest first.
  void RunAll() noexcept;

 private:
  std::mutex mutex_;
  std::function<void()> before_;
  std::list<std::function<void()>> hooks_;
};

/// Runs the hooks in exit(3), unless they have run or were destroyed before.
void RunAtExit(const std::shared_ptr<CleanupHooks>& hooks);

/// The pending promises of one JavaScript environment, which native threads settle. One thread-safe function serves all
/// of them; it keeps Node's event loop alive while a promise is pending and not otherwise.
///
/// Made, used and destroyed on the JavaScript thread; only the Done that Run() hands to `start` is called elsewhere.
class PromiseTable {
 public:
  /// Makes the value that a promise resolves with, on the JavaScript thread. A throw rejects the promise.
  using ToValue = std::function<Napi::Value(Napi::Env, const Outcome&)>;
  /// Starts native work that calls `done` when it ends.
  using Start = std::function<void(Done done)>;

  explicit PromiseTable(Napi::Env env);

  /// Starts work and returns its promise. Objects in `kept` live until it settles. What `start` throws, an argument
  /// out of range for instance, rejects the promise: a function that returns a promise never throws.
  Napi::Promise Run(Napi::Env env, const Start& start, const std::vector<Napi::Value>& kept, ToValue to_value);

  /// A function, which may outlive the table, that makes it drop all outcomes from then on.
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
  /// What native threads hold: it outlives the table.
  struct Channel;

  static void OnMessage(Napi::Env env, Napi::Function, PromiseTable* table, Message* message);
  using Function = Napi::TypedThreadSafeFunction<PromiseTable, Message, OnMessage>;

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

  PromiseTable& promises() { return promises_; }
  CleanupHooks& cleanup_hooks() { return *hooks_; }

  /// Constructors of the classes whose objects native code makes.
  Napi::FunctionReference mapping_class;
  Napi::FunctionReference device_buffer_class;
  Napi::FunctionReference cuda_buffer_class;
  Napi::FunctionReference exposure_class;
  Napi::FunctionReference fabric_peer_class;

 private:
  PromiseTable promises_;
  const std::shared_ptr<CleanupHooks> hooks_;
};

}  // namespace weightcast
