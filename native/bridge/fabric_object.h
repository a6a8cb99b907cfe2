#pragma once

#include <napi.h>

#include <memory>

#include "bridge/endings.h"
#include "fabric/fabric.h"

namespace weightcast {

/// JavaScript's Fabric (NativeFabric in src/native-bridge/addon.ts). One that is collected is closed.
class FabricObject : public Napi::ObjectWrap<FabricObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit FabricObject(const Napi::CallbackInfo& info);
  ~FabricObject() override;

 private:
  static Napi::Value RdmaPorts(const Napi::CallbackInfo& info);

  Napi::Value Address(const Napi::CallbackInfo& info);
  Napi::Value Expose(const Napi::CallbackInfo& info);
  Napi::Value Connect(const Napi::CallbackInfo& info);
  void CancelConnect(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  /// Null if the constructor threw.
  std::shared_ptr<Fabric> fabric_;
  /// The ThreadPool, whose threads write into memory of JavaScript: only its object has them stopped before that goes.
  Napi::ObjectReference pool_;
  Endings::Registration ending_;
};

}  // namespace weightcast
