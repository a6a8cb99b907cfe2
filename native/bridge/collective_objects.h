#pragma once

#include <napi.h>

#include <memory>

#include "bridge/async.h"
#include "collective/broadcast_copy.h"
#include "collective/nccl_collective.h"
#include "collective/shm_collective.h"

namespace weightcast {

/// JavaScript's ShmCollective (NativeShmCollective in src/native-bridge/addon.ts).
class ShmCollectiveObject : public Napi::ObjectWrap<ShmCollectiveObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit ShmCollectiveObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value Broadcast(const Napi::CallbackInfo& info);
  void Abort(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  std::unique_ptr<BroadcastCopy> CopyArgument(const Napi::Object& options) const;

  bool is_on_cuda_ = false;
  /// What other ranks' memory is opened with: on host devices the one, on CUDA devices the other. Null once closed.
  std::shared_ptr<SourceCache> sources_;
  std::shared_ptr<DeviceCopier> copier_;
  std::unique_ptr<ShmCollective> collective_;
  Endings::Registration ending_;
};

/// JavaScript's NcclCollective (NativeNcclCollective in src/native-bridge/addon.ts).
class NcclCollectiveObject : public Napi::ObjectWrap<NcclCollectiveObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit NcclCollectiveObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value Broadcast(const Napi::CallbackInfo& info);
  void Abort(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::unique_ptr<NcclCollective> collective_;
  Endings::Registration ending_;
};

/// { version, allowsSharedDevices }
Napi::Value ProbeNcclValue(const Napi::CallbackInfo& info);
/// A new id, as 128 bytes.
Napi::Value NcclUniqueIdValue(const Napi::CallbackInfo& info);

/// A number, as nccl::Library::InstalledVersion().
Napi::Value NcclVersionValue(const Napi::CallbackInfo& info);

}  // namespace weightcast
