#pragma once

#include <napi.h>

#include <memory>
#include <optional>
#include <string>

#include "bridge/async.h"
#include "collective/broadcast_copy.h"
#include "collective/nccl_collective.h"
#include "collective/shm_collective.h"
#include "device/cuda/cuda_device.h"
#include "device/host_device.h"
#include "fabric/fabric.h"
#include "fabric/peer.h"
#include "memory/load_resources.h"
#include "memory/mapping.h"
#include "memory/shared_directory.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// JavaScript's Mapping (NativeMapping in src/native-bridge/addon.ts).
class MappingObject : public Napi::ObjectWrap<MappingObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit MappingObject(const Napi::CallbackInfo& info);

  /// The object behind a value; null if it is something else.
  static const MappingObject* From(const Napi::Value& value);
  /// Throws CLOSED after close().
  const std::shared_ptr<Mapping>& Open() const;
  /// Also after close(), if others still hold the mapping; else null.
  std::shared_ptr<Mapping> Last() const { return last_.lock(); }

 private:
  static Napi::Value Create(const Napi::CallbackInfo& info);
  static Napi::Value CreateEmpty(const Napi::CallbackInfo& info);
  static Napi::Value OpenFile(const Napi::CallbackInfo& info);

  Napi::Value Path(const Napi::CallbackInfo& info);
  Napi::Value Bytes(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  void Write(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);
  void Unlink(const Napi::CallbackInfo& info);

  /// Null after close().
  std::shared_ptr<Mapping> mapping_;
  std::weak_ptr<Mapping> last_;
  std::string path_;
  FileId file_;
  double bytes_ = 0;
};

/// What Mapping and DeviceBuffer have in common: read(offset, bytes) and write(offset, data).
Napi::Value ReadMapping(const Napi::CallbackInfo& info, const Mapping& mapping);
void WriteMapping(const Napi::CallbackInfo& info, const Mapping& mapping);

/// JavaScript's SharedDirectory (NativeSharedDirectory in src/native-bridge/addon.ts).
class SharedDirectoryObject : public Napi::ObjectWrap<SharedDirectoryObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit SharedDirectoryObject(const Napi::CallbackInfo& info);

 private:
  static Napi::Value RemoveIfAbandoned(const Napi::CallbackInfo& info);

  Napi::Value Path(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::unique_ptr<SharedDirectory> directory_;
  CleanupHooks::Registration cleanup_;
};

/// JavaScript's ThreadPool (NativeThreadPool in src/native-bridge/addon.ts).
class ThreadPoolObject : public Napi::ObjectWrap<ThreadPoolObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit ThreadPoolObject(const Napi::CallbackInfo& info);

  /// The pool behind a value; null if it is something else.
  static std::shared_ptr<ThreadPool> From(const Napi::Value& value);

 private:
  Napi::Value Threads(const Napi::CallbackInfo& info);
  Napi::Value Copy(const Napi::CallbackInfo& info);
  Napi::Value CopyIn(const Napi::CallbackInfo& info);
  Napi::Value Load(const Napi::CallbackInfo& info);
  Napi::Value Reserve(const Napi::CallbackInfo& info);
  Napi::Value Write(const Napi::CallbackInfo& info);
  Napi::Value Digest(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);
  /// Those of the loads that run, or new ones.
  std::shared_ptr<LoadResources> ResourcesOfLoads(unsigned processors);

  std::shared_ptr<ThreadPool> pool_;
  std::weak_ptr<LoadResources> load_resources_;
  CleanupHooks::Registration cleanup_;
};

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
  CleanupHooks::Registration cleanup_;
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
  CleanupHooks::Registration cleanup_;
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
  std::shared_ptr<MappingCache> sources_;
  std::shared_ptr<DeviceCopier> copier_;
  std::unique_ptr<ShmCollective> collective_;
  CleanupHooks::Registration cleanup_;
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
  CleanupHooks::Registration cleanup_;
};

/// { version, allowsSharedDevices }
Napi::Value ProbeNcclValue(const Napi::CallbackInfo& info);
/// A new id, as 128 bytes.
Napi::Value NcclUniqueIdValue(const Napi::CallbackInfo& info);

/// A number, as nccl::Library::InstalledVersion().
Napi::Value NcclVersionValue(const Napi::CallbackInfo& info);

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
  CleanupHooks::Registration cleanup_;
};

/// JavaScript's FabricPeer (NativeFabricPeer in src/native-bridge/addon.ts). One that is collected is closed.
class FabricPeerObject : public Napi::ObjectWrap<FabricPeerObject> {
 public:
  static Napi::Function Define(Napi::Env env);
  /// A new object for a peer of the Fabric object `fabric`, which lives as long: one that is collected is closed.
  static Napi::Value Wrap(const Napi::Object& fabric, std::shared_ptr<Peer> peer);
  explicit FabricPeerObject(const Napi::CallbackInfo& info);
  ~FabricPeerObject() override;

 private:
  Napi::Value Kind(const Napi::CallbackInfo& info);
  Napi::Value WhyNotRdma(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  void Cancel(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  std::shared_ptr<Peer> peer_;
  Napi::ObjectReference fabric_;
};

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
