#pragma once

#include <napi.h>

#include <memory>

#include "memory/mapping.h"

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

}  // namespace weightcast
