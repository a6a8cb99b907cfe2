#include "bridge/shared_directory_object.h"

#include "bridge/arguments.h"
#include "bridge/environment.h"
#include "bridge/error.h"

namespace weightcast {

Napi::Function SharedDirectoryObject::Define(Napi::Env env) {
  return DefineClass(env, "SharedDirectory",
                     {
                         StaticMethod<&SharedDirectoryObject::RemoveIfAbandoned>("removeIfAbandoned"),
                         InstanceAccessor<&SharedDirectoryObject::Path>("path"),
                         InstanceMethod<&SharedDirectoryObject::Close>("close"),
                     });
}

SharedDirectoryObject::SharedDirectoryObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<SharedDirectoryObject>(info) {
  Guarded(info.Env(),
          [&] { directory_ = std::make_unique<SharedDirectory>(TextArgument(info[0], "path")); });
  ending_ = Environment::Of(info.Env()).endings().Add([directory = directory_.get()] { directory->Leave(); });
}

Napi::Value SharedDirectoryObject::RemoveIfAbandoned(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const bool removed = SharedDirectory::RemoveIfAbandoned(TextArgument(info[0], "path"));
    return Napi::Boolean::New(info.Env(), removed);
  });
}

Napi::Value SharedDirectoryObject::Path(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), directory_->path());
}

Napi::Value SharedDirectoryObject::Close(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), directory_->Leave());
}

}  // namespace weightcast
