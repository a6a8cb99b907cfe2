#include "bridge/thread_pool_object.h"

#include <utility>
#include <vector>

#include "bridge/arguments.h"
#include "bridge/environment.h"
#include "bridge/error.h"
#include "bridge/values.h"
#include "memory/copy.h"
#include "memory/digest.h"
#include "memory/load.h"
#include "memory/reserve.h"
#include "memory/write.h"
#include "system/failure.h"

namespace weightcast {
namespace {

constexpr napi_type_tag kTypeTag = {0x84c2f1d96a0e4b37, 0xc65f20b81d9e47a3};

std::vector<TensorWrite> TensorsArgument(const Napi::Value& sources, const Napi::Value& offsets) {
  const Napi::Array arrays = ArrayArgument(sources, "sources");
  const std::vector<uint64_t> places = WholeNumbers(offsets, "offsets", 1);
  if (arrays.Length() != places.size()) {
    throw Failure(code::kOutOfRange, "a write needs as many offsets as sources");
  }
  std::vector<TensorWrite> tensors;
  tensors.reserve(places.size());
  for (uint32_t index = 0; index < arrays.Length(); index++) {
    const Napi::HandleScope scope(sources.Env());
    const Napi::Uint8Array source = BytesArgument(arrays.Get(index), "source");
    tensors.push_back({source.Data(), source.ByteLength(), places[index]});
  }
  return tensors;
}

}  // namespace

Napi::Function ThreadPoolObject::Define(Napi::Env env) {
  return DefineClass(env, "ThreadPool",
                     {
                         InstanceAccessor<&ThreadPoolObject::Threads>("threads"),
                         InstanceMethod<&ThreadPoolObject::Copy>("copy"),
                         InstanceMethod<&ThreadPoolObject::CopyIn>("copyIn"),
                         InstanceMethod<&ThreadPoolObject::Load>("load"),
                         InstanceMethod<&ThreadPoolObject::Reserve>("reserve"),
                         InstanceMethod<&ThreadPoolObject::Write>("write"),
                         InstanceMethod<&ThreadPoolObject::Digest>("digest"),
                         InstanceMethod<&ThreadPoolObject::Close>("close"),
                     });
}

ThreadPoolObject::ThreadPoolObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ThreadPoolObject>(info) {
  Guarded(info.Env(), [&] { pool_ = std::make_shared<ThreadPool>(ThreadsArgument(info[0], "threads")); });
  ending_ = Environment::Of(info.Env()).endings().Add([pool = pool_.get()] { pool->Stop(); });
  info.This().As<Napi::Object>().TypeTag(&kTypeTag);
}

std::shared_ptr<ThreadPool> ThreadPoolObject::From(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTypeTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->pool_;
}

Napi::Value ThreadPoolObject::Threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), pool_->threads());
}

Napi::Value ThreadPoolObject::Copy(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    pool_->Give(std::make_shared<CopyJob>(MappingArgument(info[0], "source"), MappingArgument(info[1], "destination"),
                                          Structures<RectangleCopy>(info[2], "rectangles"), pool_->threads()),
                std::move(done));
  };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[1]};
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, kept, IntervalValue);
}

Napi::Value ThreadPoolObject::CopyIn(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const Napi::Uint8Array source = BytesArgument(info[0], "source");
    const std::shared_ptr<Mapping> destination = MappingArgument(info[1], "destination");
    pool_->Give(std::make_shared<CopyInJob>(source.Data(), source.ByteLength(), destination,
                                            WholeArgument(info[2], "offset"), pool_->threads()),
                std::move(done));
  };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[1]};
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, kept, IntervalValue);
}

Napi::Value ThreadPoolObject::Load(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const std::string path = TextArgument(info[0], "path");
    const std::shared_ptr<Mapping> destination = MappingArgument(info[1], "destination");
    pool_->Give(std::make_shared<LoadJob>(path, destination, Structures<FileRange>(info[2], "ranges"),
                                          ProgressArgument(info[3]), pool_->threads()),
                std::move(done));
  };
  const std::vector<Napi::Value> kept{info.This(), info[1], info[3]};
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, kept, IntervalValue);
}

Napi::Value ThreadPoolObject::Reserve(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    pool_->Give(std::make_shared<ReserveJob>(MappingArgument(info[0], "mapping"), ProgressArgument(info[1])),
                std::move(done));
  };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[1]};
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, kept, IntervalValue);
}

Napi::Value ThreadPoolObject::Write(const Napi::CallbackInfo& info) {
  const auto job = std::make_shared<std::shared_ptr<WriteJob>>();
  const auto start = [&](Done done) {
    *job = std::make_shared<WriteJob>(TensorsArgument(info[0], info[2]), MappingArgument(info[1], "destination"),
                                      ProgressArgument(info[3]), pool_->threads());
    pool_->Give(*job, std::move(done));
  };
  const auto to_value = [job](Napi::Env env, const Outcome&) { return DigestsValue(env, (*job)->Digests()); };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[1], info[3]};
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, kept, to_value);
}

Napi::Value ThreadPoolObject::Digest(const Napi::CallbackInfo& info) {
  const auto job = std::make_shared<std::shared_ptr<DigestJob>>();
  const auto start = [&](Done done) {
    *job = std::make_shared<DigestJob>(MappingArgument(info[0], "mapping"), Structures<TensorPart>(info[1], "parts"),
                                       ProgressArgument(info[2]), pool_->threads());
    pool_->Give(*job, std::move(done));
  };
  const auto to_value = [job](Napi::Env env, const Outcome&) { return DigestsValue(env, (*job)->Result()); };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[2]};
  return Environment::Of(info.Env()).settler().Run(info.Env(), start, kept, to_value);
}

void ThreadPoolObject::Close(const Napi::CallbackInfo&) { pool_->Close(); }

}  // namespace weightcast
