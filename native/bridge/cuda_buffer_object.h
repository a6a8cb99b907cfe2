#pragma once

#include <napi.h>

#include <memory>
#include <optional>

#include "device/cuda/cuda_device.h"

namespace weightcast {

/// JavaScript's CudaBuffer (NativeCudaBuffer in src/native-bridge/addon.ts). An object that is collected without having
/// been freed gives its memory back.
class CudaBufferObject : public Napi::ObjectWrap<CudaBufferObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  /// A new object for memory of the CudaDevice object `device`, which lives as long.
  static Napi::Value Wrap(const Napi::Object& device, std::shared_ptr<cuda::CudaMemory> memory);
  explicit CudaBufferObject(const Napi::CallbackInfo& info);

  /// The memory behind a value. Throws CLOSED once it is freed or its device closed, and a TypeError naming `name` for
  /// any other value.
  static std::shared_ptr<const cuda::DeviceBlock> BlockArgument(const Napi::Value& value, const char* name);

 private:
  Napi::Value Bytes(const Napi::CallbackInfo& info);
  Napi::Value Handle(const Napi::CallbackInfo& info);
  void Free(const Napi::CallbackInfo& info);

  std::shared_ptr<cuda::CudaMemory> memory_;
  /// Made when it is first asked for.
  std::optional<cuda::IpcMemoryHandle> handle_;
  /// Gives all memory back when the process ends, which it cannot once it is collected.
  Napi::ObjectReference device_;
  double bytes_ = 0;
};

}  // namespace weightcast
