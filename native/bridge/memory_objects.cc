#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bridge/arguments.h"
#include "bridge/async.h"
#include "bridge/objects.h"
#include "memory/copy.h"
#include "memory/digest.h"
#include "memory/load_job.h"
#include "memory/mapped_access.h"
#include "memory/segment_jobs.h"
#include "system/base.h"

namespace weightcast {
namespace {

constexpr napi_type_tag kMappingTag = {0x5a1c6e0d8f3b4e27, 0x9d42b7c1f06e4a83};
constexpr uint64_t kLargestRead = uint64_t{64} << 20;

Napi::Value Wrap(Napi::Env env, std::shared_ptr<Mapping> mapping) {
  return NewObject(env, Environment::Of(env).mapping_class, std::move(mapping));
}

using Maker = std::shared_ptr<Mapping> (*)(const std::string& path, uint64_t bytes, int numa_node);

Napi::Value MakeFile(const Napi::CallbackInfo& info, Maker make) {
  return Guarded(info.Env(), [&] {
    const std::string path = TextArgument(info[0], "path");
    const uint64_t bytes = WholeArgument(info[1], "bytes");
    const int numa_node = info[2].IsNumber() ? info[2].As<Napi::Number>().Int32Value() : -1;
    return Wrap(info.Env(), make(path, bytes, numa_node));
  });
}

}  // namespace

Napi::Function MappingObject::Define(Napi::Env env) {
  return DefineClass(env, "Mapping",
                     {
                         StaticMethod<&MappingObject::Create>("create"),
                         StaticMethod<&MappingObject::CreateEmpty>("createEmpty"),
                         StaticMethod<&MappingObject::OpenFile>("open"),
                         InstanceAccessor<&MappingObject::Path>("path"),
                         InstanceAccessor<&MappingObject::Bytes>("bytes"),
                         InstanceMethod<&MappingObject::Read>("read"),
                         InstanceMethod<&MappingObject::Write>("write"),
                         InstanceMethod<&MappingObject::Close>("close"),
                         InstanceMethod<&MappingObject::Unlink>("unlink"),
                     });
}

MappingObject::MappingObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MappingObject>(info) {
  mapping_ = TakeContent<std::shared_ptr<Mapping>>(info, "a Mapping is made by Mapping.create or Mapping.open");
  last_ = mapping_;
  path_ = mapping_->path();
  file_ = mapping_->file();
  bytes_ = static_cast<double>(mapping_->bytes());
  info.This().As<Napi::Object>().TypeTag(&kMappingTag);
}

const MappingObject* MappingObject::From(const Napi::Value& value) {
  if (!HasTag(value, kMappingTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>());
}

const std::shared_ptr<Mapping>& MappingObject::Open() const {
  if (!mapping_) throw Failure(code::kClosed, "the mapping of " + path_ + " is closed");
  return mapping_;
}

Napi::Value MappingObject::Create(const Napi::CallbackInfo& info) { return MakeFile(info, Mapping::Create); }

Napi::Value MappingObject::CreateEmpty(const Napi::CallbackInfo& info) { return MakeFile(info, Mapping::CreateEmpty); }

Napi::Value MappingObject::OpenFile(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] {
    const std::string path = TextArgument(info[0], "path");
    return Wrap(info.Env(), Mapping::Open(path, FlagArgument(info[1], "writable")));
  });
}

Napi::Value MappingObject::Path(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), path_); }

Napi::Value MappingObject::Bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), bytes_); }

Napi::Value MappingObject::Read(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&] { return ReadMapping(info, *Open()); });
}

void MappingObject::Write(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { WriteMapping(info, *Open()); });
}

void MappingObject::Close(const Napi::CallbackInfo&) { mapping_.reset(); }

void MappingObject::Unlink(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] { UnlinkFile(path_, file_); });
}

Napi::Value ReadMapping(const Napi::CallbackInfo& info, const Mapping& mapping) {
  const uint64_t offset = WholeArgument(info[0], "offset");
  const uint64_t bytes = WholeArgument(info[1], "bytes");
  if (bytes > kLargestRead) {
    throw Failure(code::kOutOfRange,
                  "read copies at most " + ByteSize(kLargestRead) + ", not " + std::to_string(bytes) + " bytes");
  }
  mapping.CheckRange(offset, bytes);
  const MappedAccess reading(mapping);
  const Napi::Value copy = Napi::Buffer<uint8_t>::Copy(info.Env(), mapping.data() + offset, bytes);
  reading.Finish();
  return copy;
}

void WriteMapping(const Napi::CallbackInfo& info, const Mapping& mapping) {
  const uint64_t offset = WholeArgument(info[0], "offset");
  const Napi::Uint8Array data = BytesArgument(info[1], "data");
  mapping.CheckWritable();
  mapping.CheckRange(offset, data.ByteLength());
  const MappedAccess writing(mapping);
  if (data.ByteLength() > 0) std::memcpy(mapping.data() + offset, data.Data(), data.ByteLength());
  writing.Finish();
}

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
  Guarded(info.Env(), [&] { directory_ = std::make_unique<SharedDirectory>(TextArgument(info[0], "path")); });
  cleanup_ = Environment::Of(info.Env()).cleanup_hooks().Add([directory = directory_.get()] { directory->Leave(); });
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

namespace {

constexpr napi_type_tag kThreadPoolTag = {0x84c2f1d96a0e4b37, 0xc65f20b81d9e47a3};

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

std::vector<std::unique_ptr<LoadSource>> SourcesArgument(const Napi::Value& paths, const Napi::Value& ranges) {
  const std::vector<std::string> names = TextsArgument(paths, "paths");
  const Napi::Array arrays = ArrayArgument(ranges, "ranges");
  if (arrays.Length() != names.size()) throw Failure(code::kOutOfRange, "a load needs as many ranges as paths");
  std::vector<std::unique_ptr<LoadSource>> sources;
  for (uint32_t index = 0; index < arrays.Length(); index++) {
    const Napi::HandleScope scope(paths.Env());
    sources.push_back(std::make_unique<LoadSource>(names[index], Structures<FileRange>(arrays.Get(index), "ranges")));
  }
  return sources;
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
  cleanup_ = Environment::Of(info.Env()).cleanup_hooks().Add([pool = pool_.get()] { pool->Stop(); });
  info.This().As<Napi::Object>().TypeTag(&kThreadPoolTag);
}

std::shared_ptr<ThreadPool> ThreadPoolObject::From(const Napi::Value& value) {
  if (!HasTag(value, kThreadPoolTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->pool_;
}

Napi::Value ThreadPoolObject::Threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), pool_->threads());
}

Napi::Value ThreadPoolObject::Copy(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    pool_->Submit(std::make_shared<CopyJob>(MappingArgument(info[0], "source"), MappingArgument(info[1], "destination"),
                                            Structures<RectangleCopy>(info[2], "rectangles"), pool_->threads()),
                  std::move(done));
  };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[1]};
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, kept, IntervalValue);
}

Napi::Value ThreadPoolObject::CopyIn(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    const Napi::Uint8Array source = BytesArgument(info[0], "source");
    const std::shared_ptr<Mapping> destination = MappingArgument(info[1], "destination");
    pool_->Submit(std::make_shared<CopyInJob>(source.Data(), source.ByteLength(), destination,
                                              WholeArgument(info[2], "offset"), pool_->threads()),
                  std::move(done));
  };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[1]};
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, kept, IntervalValue);
}

Napi::Value ThreadPoolObject::Load(const Napi::CallbackInfo& info) {
  const auto job = std::make_shared<std::shared_ptr<LoadJob>>();
  const auto start = [&](Done done) {
    *job = std::make_shared<LoadJob>(SourcesArgument(info[0], info[1]), MappingArgument(info[2], "destination"),
                                     Structures<TensorPlace>(info[3], "tensors"), ProgressArgument(info[4]),
                                     ResourcesOfLoads(ThreadsArgument(info[5], "processors")));
    pool_->Submit(*job, std::move(done));
  };
  const auto to_value = [job](Napi::Env env, const Outcome&) { return DigestsValue(env, (*job)->Digests()); };
  const std::vector<Napi::Value> kept{info.This(), info[2], info[4]};
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, kept, to_value);
}

std::shared_ptr<LoadResources> ThreadPoolObject::ResourcesOfLoads(unsigned processors) {
  std::shared_ptr<LoadResources> resources = load_resources_.lock();
  if (!resources) load_resources_ = resources = std::make_shared<LoadResources>(processors);
  return resources;
}

Napi::Value ThreadPoolObject::Reserve(const Napi::CallbackInfo& info) {
  const auto start = [&](Done done) {
    pool_->Submit(std::make_shared<ReserveJob>(MappingArgument(info[0], "mapping"), WholeArgument(info[1], "offset"),
                                               WholeArgument(info[2], "bytes"), ProgressArgument(info[3])),
                  std::move(done));
  };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[3]};
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, kept, IntervalValue);
}

Napi::Value ThreadPoolObject::Write(const Napi::CallbackInfo& info) {
  const auto job = std::make_shared<std::shared_ptr<WriteJob>>();
  const auto start = [&](Done done) {
    *job = std::make_shared<WriteJob>(TensorsArgument(info[0], info[2]), MappingArgument(info[1], "destination"),
                                      ProgressArgument(info[3]), pool_->threads());
    pool_->Submit(*job, std::move(done));
  };
  const auto to_value = [job](Napi::Env env, const Outcome&) { return DigestsValue(env, (*job)->Digests()); };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[1], info[3]};
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, kept, to_value);
}

Napi::Value ThreadPoolObject::Digest(const Napi::CallbackInfo& info) {
  const auto job = std::make_shared<std::shared_ptr<DigestJob>>();
  const auto start = [&](Done done) {
    *job = std::make_shared<DigestJob>(MappingArgument(info[0], "mapping"), Structures<TensorPart>(info[1], "parts"),
                                       ProgressArgument(info[2]), pool_->threads());
    pool_->Submit(*job, std::move(done));
  };
  const auto to_value = [job](Napi::Env env, const Outcome&) { return DigestsValue(env, (*job)->Result()); };
  const std::vector<Napi::Value> kept{info.This(), info[0], info[2]};
  return Environment::Of(info.Env()).promises().Run(info.Env(), start, kept, to_value);
}

void ThreadPoolObject::Close(const Napi::CallbackInfo&) { pool_->Close(); }

}  // namespace weightcast
