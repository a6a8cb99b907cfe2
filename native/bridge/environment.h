#pragma once

#include <napi.h>

#include <memory>

#include "bridge/endings.h"
#include "bridge/settler.h"

namespace weightcast {

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
