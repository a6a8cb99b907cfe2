#pragma once

#include <napi.h>

#include <memory>

#include "fabric/peer.h"

namespace weightcast {

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

}  // namespace weightcast
