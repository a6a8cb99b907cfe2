#pragma once

#include <napi.h>

#include <memory>

#include "bridge/async.h"
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
  Endings::Registration ending_;
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

  std::shared_ptr<ThreadPool> pool_;
  Endings::Registration ending_;
};

}  // namespace weightcast
