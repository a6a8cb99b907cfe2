/// The addon of weightcast. What JavaScript sees of it is declared in src/native-bridge/addon.ts.
///
///   system/      what the rest stands on: failures, clock, descriptors, threads, event loops, process identity, futex,
///                libraries
///   memory/      files mapped as memory (SharedDirectory, Mapping) and bulk work on them: ThreadPool runs jobs
///                (reserve, load, write, copy, digest), each cut into pieces
///   device/      HostDevice: a GPU emulated in shared memory, its account kept in a Ledger
///   device/cuda/ CudaDevice: a real one, through the Driver that is loaded at run time; each kind of work has a Lane,
///                a stream with a thread that fills it and reports
///   collective/  ShmCollective: broadcast among the ranks of a host, agreed upon through the ControlFile of their
///                Membership, carried out by a HostCopy or a DeviceCopy; NcclCollective: broadcast among CUDA devices, by
///                an NcclCommunicator that keeps an NcclPipeline filled
///   fabric/      Fabric: one-sided reads between ranks. For those who read from here a Reception lets in who knows the
///                secret, and a Service answers; towards others a Connector makes a Peer, whose Carrier brings the
///                bytes of each Read: by shared memory, by TCP, or by RDMA (verbs/, with libibverbs if it is there)
///   bridge/      the only part that knows of JavaScript: a class *_object for each class above, argument readers,
///                the Settler (promises from native threads) and Endings (what is done when the process ends)
///
/// Errors are C++ exceptions of class Failure up to the bridge, which gives them their `code`. Threads are made by
/// ThreadPool, Lane, ShmCollective, NcclCollective, CallThread and EventLoop only, and joined before the environment that they
/// report to ends, but for one that hangs inside a library.

#include <dlfcn.h>
#include <napi.h>

#include <string>

#include "bridge/arguments.h"
#include "bridge/async.h"
#include "bridge/collective_objects.h"
#include "bridge/device_objects.h"
#include "bridge/fabric_objects.h"
#include "bridge/memory_objects.h"
#include "system/base.h"

namespace weightcast {
namespace {

Napi::Value MonotonicMillisecondsValue(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), MonotonicMilliseconds());
}

/// Why the dynamic linker does not load a library of that name, in its own words; null if it does.
Napi::Value WhyNotLoadedValue(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&]() -> Napi::Value {
    const std::string name = TextArgument(info[0], "library");
    void* const library = dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) {
      const char* const words = dlerror();
      return Napi::String::New(info.Env(), words == nullptr ? "unknown reason" : words);
    }
    dlclose(library);
    return info.Env().Null();
  });
}

Napi::Object Initialise(Napi::Env env, Napi::Object exports) {
  auto* const environment = new Environment(env);
  env.SetInstanceData(environment);
  const Napi::Function mapping_class = MappingObject::Define(env);
  environment->mapping_class = Napi::Persistent(mapping_class);
  environment->device_buffer_class = Napi::Persistent(DeviceBufferObject::Define(env));
  environment->exposure_class = Napi::Persistent(ExposureObject::Define(env));
  environment->fabric_peer_class = Napi::Persistent(FabricPeerObject::Define(env));
  environment->cuda_buffer_class = Napi::Persistent(CudaBufferObject::Define(env));
  exports.Set("Mapping", mapping_class);
  exports.Set("SharedDirectory", SharedDirectoryObject::Define(env));
  exports.Set("ThreadPool", ThreadPoolObject::Define(env));
  exports.Set("HostDevice", HostDeviceObject::Define(env));
  exports.Set("CudaDevice", CudaDeviceObject::Define(env));
  exports.Set("ShmCollective", ShmCollectiveObject::Define(env));
  exports.Set("NcclCollective", NcclCollectiveObject::Define(env));
  exports.Set("ncclUniqueId", Napi::Function::New<NcclUniqueIdValue>(env, "ncclUniqueId"));
  exports.Set("probeNccl", Napi::Function::New<ProbeNcclValue>(env, "probeNccl"));
  exports.Set("Fabric", FabricObject::Define(env));
  exports.Set("probeCuda", Napi::Function::New<ProbeCudaValue>(env, "probeCuda"));
  exports.Set("ncclVersion", Napi::Function::New<NcclVersionValue>(env, "ncclVersion"));
  exports.Set("whyNotLoaded", Napi::Function::New<WhyNotLoadedValue>(env, "whyNotLoaded"));
  exports.Set("monotonicMilliseconds",
              Napi::Function::New<MonotonicMillisecondsValue>(env, "monotonicMilliseconds"));
  return exports;
}

}  // namespace
}  // namespace weightcast

Napi::Object InitialiseAddon(Napi::Env env, Napi::Object exports) { return weightcast::Initialise(env, exports); }

NODE_API_MODULE(weightcast, InitialiseAddon)
