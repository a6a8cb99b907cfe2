#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "system/outcome.h"

namespace weightcast {

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

}  // namespace weightcast
