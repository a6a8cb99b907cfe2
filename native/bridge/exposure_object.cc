#include "bridge/exposure_object.h"

#include <utility>

#include "bridge/environment.h"

namespace weightcast {

Napi::Function ExposureObject::Define(Napi::Env env) {
  return DefineClass(env, "Exposure",
                     {
                         InstanceAccessor<&ExposureObject::Token>("token"),
                         InstanceAccessor<&ExposureObject::Readers>("readers"),
                         InstanceMethod<&ExposureObject::Close>("close"),
                     });
}

Napi::Value ExposureObject::Wrap(const Napi::Object& object, std::shared_ptr<Fabric> fabric,
                                 std::shared_ptr<Exposure> exposure) {
  Content content{std::move(fabric), std::move(exposure)};
  const Napi::Env env = object.Env();
  // The constructor takes the content over from here.
  return Environment::Of(env).exposure_class.New({Napi::External<Content>::New(env, &content), object});
}

ExposureObject::ExposureObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ExposureObject>(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "an Exposure is made by Fabric.expose");
  content_ = std::move(*info[0].As<Napi::External<Content>>().Data());
  token_ = content_.exposure->token();
  object_ = Napi::Persistent(info[1].As<Napi::Object>());
}

Napi::Value ExposureObject::Token(const Napi::CallbackInfo& info) {
  return Napi::Buffer<uint8_t>::Copy(info.Env(), token_.data(), token_.size());
}

Napi::Value ExposureObject::Readers(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), content_.exposure ? content_.exposure->readers.load() : 0);
}

Napi::Value ExposureObject::Close(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const double now = MonotonicMilliseconds();
    if (!content_.exposure) return done({{now, now}, std::nullopt});
    content_.fabric->Withdraw(std::move(content_.exposure), done);
  };
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, {info.This()}, IntervalValue);
}

}  // namespace weightcast
