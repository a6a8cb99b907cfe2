#pragma once

#include <napi.h>

#include <memory>

#include "bridge/endings.h"
#include "device/cuda/cuda_device.h"

namespace weightcast {

/// JavaScript's CudaDevice (NativeCudaDevice in src/native-bridge/addon.ts).
class CudaDeviceObject : public Napi::ObjectWrap<CudaDeviceObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit CudaDeviceObject(const Napi::CallbackInfo& info);

  /// The context of the device behind a value. Throws CLOSED once it is closed, and a TypeError naming `name` for any
  /// other value.
  static std::shared_ptr<const cuda::PrimaryContext> ContextArgument(const Napi::Value& value, const char* name);

 private:
  Napi::Value Uuid(const Napi::CallbackInfo& info);
  Napi::Value NumaNode(const Napi::CallbackInfo& info);
  Napi::Value PinnedBytes(const Napi::CallbackInfo& info);
  Napi::Value Memory(const Napi::CallbackInfo& info);
  Napi::Value Allocate(const Napi::CallbackInfo& info);
  Napi::Value OpenMemory(const Napi::CallbackInfo& info);
  Napi::Value Pin(const Napi::CallbackInfo& info);
  Napi::Value Unpin(const Napi::CallbackInfo& info);
  Napi::Value Upload(const Napi::CallbackInfo& info);
  Napi::Value Copy(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  Napi::Value Digest(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  std::shared_ptr<cuda::CudaDevice> device_;
  Endings::Registration ending_;
};

}  // namespace weightcast
