#pragma once

#include <napi.h>

#include <memory>
#include <optional>
#include <string>

#include "bridge/async.h"
#include "device/cuda/cuda_device.h"
#include "device/host_device.h"

namespace weightcast {

/// JavaScript's HostDevice (NativeHostDevice in src/native-bridge/addon.ts).
class HostDeviceObject : public Napi::ObjectWrap<HostDeviceObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit HostDeviceObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value Directory(const Napi::CallbackInfo& info);
  Napi::Value Memory(const Napi::CallbackInfo& info);
  Napi::Value Allocate(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  std::shared_ptr<HostDevice> device_;
  Endings::Registration ending_;
};

/// JavaScript's DeviceBuffer (NativeDeviceBuffer in src/native-bridge/addon.ts). An object that is collected without
/// having been freed gives its memory back.
class DeviceBufferObject : public Napi::ObjectWrap<DeviceBufferObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  /// A new object for an allocation of the HostDevice object `device`, which lives as long.
  static Napi::Value Wrap(const Napi::Object& device, std::shared_ptr<DeviceAllocation> allocation);
  explicit DeviceBufferObject(const Napi::CallbackInfo& info);

  /// The object behind a value; null if it is something else.
  static const DeviceBufferObject* From(const Napi::Value& value);
  /// Throws CLOSED once the memory is freed or its device closed.
  const std::shared_ptr<Mapping>& Open() const;

 private:
  Napi::Value Path(const Napi::CallbackInfo& info);
  Napi::Value Bytes(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  void Write(const Napi::CallbackInfo& info);
  /// free(); also what close() and unlink() of a Mapping amount to here.
  void Free(const Napi::CallbackInfo& info);

  std::shared_ptr<DeviceAllocation> allocation_;
  /// Gives all memory back when the process ends, which it cannot once it is collected.
  Napi::ObjectReference device_;
  std::string path_;
  double bytes_ = 0;
};

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

/// What the CUDA driver sees, without a context: { version, devices: [{ uuid, name, totalBytes, pciAddress }] }
Napi::Value ProbeCudaValue(const Napi::CallbackInfo& info);

}  // namespace weightcast
