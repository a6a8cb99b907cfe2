#pragma once

#include <napi.h>

#include <memory>

#include "fabric/fabric.h"

namespace weightcast {

/// JavaScript's Exposure (NativeExposure in src/native-bridge/addon.ts). One that is collected stays exposed as long as
/// its fabric is open.
class ExposureObject : public Napi::ObjectWrap<ExposureObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  /// A new object for an exposure of the Fabric object `object`, which lives as long: one that is collected is closed.
  static Napi::Value Wrap(const Napi::Object& object, std::shared_ptr<Fabric> fabric,
                          std::shared_ptr<Exposure> exposure);
  explicit ExposureObject(const Napi::CallbackInfo& info);

 private:
  struct Content {
    std::shared_ptr<Fabric> fabric;
    std::shared_ptr<Exposure> exposure;
  };

  Napi::Value Token(const Napi::CallbackInfo& info);
  Napi::Value Readers(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  /// Without its exposure once that is closed: what was exposed is not kept for what is left of this object.
  Content content_;
  weightcast::Token token_{};
  Napi::ObjectReference object_;
};

}  // namespace weightcast
