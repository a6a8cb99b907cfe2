#pragma once

#include <napi.h>

#include <memory>

#include "bridge/async.h"
#include "fabric/fabric.h"
#include "fabric/peer.h"

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
