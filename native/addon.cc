/// The addon of weightcast. src/native-bridge/addon.ts declares what JavaScript sees of it.
///
/// The folders, each of which uses only those above it:
///
///   system/      base.h: bytes, descriptors, the clock, Failure, Done. Threads, event loops, other processes, faults
///   memory/      Files mapped as memory (SharedDirectory, Mapping), and a ThreadPool whose jobs work on them
///                in pieces: copy.h, digest.h, segment_jobs.h (reserve, write), load_job.h. A load reads each
///                SourceFile by the requests of a ReadPlan
///   device/      HostDevice: a GPU emulated in shared memory
///   device/cuda/ CudaDevice: a real one, through the Driver, which is loaded at run time. Each kind of work has a
///                StreamWorker: a stream, and a thread that fills it and reports what has ended
///   collective/  Broadcast. The ranks of a host share a control file (Membership). ShmCollective: each receiver copies
///                from the root's memory (BroadcastCopy). NcclCollective: among CUDA devices, also of several hosts
///   fabric/      One-sided reads between ranks. The source's side: Exposure, and a Server behind an Acceptor. The
///                reader's side: a Connector makes a Peer, whose Carrier brings the bytes of each Read, by shared
///                memory, by TCP, or by RDMA (verbs/, with libibverbs if that can be loaded)
///   bridge/      The only part that knows of JavaScript: its classes, readers of arguments, and async.h with
///                the PromiseTable, which native threads settle, and CleanupHooks, which run when the process
///                ends
///
/// What may throw where:
///
///   - Native code throws Failure, or a std::exception that is none of ours, such as std::bad_alloc.
///   - What JavaScript calls is wrapped in Guarded(), or runs in PromiseTable::Run(): the failure becomes an
///     Error with a `code`, thrown or as a rejection.
///   - A function that takes a Done either throws, and then never calls it, or returns, and then it is called
///     once. Done is noexcept, as are destructors, cleanup hooks and the tasks of a CallThread: a throw there
///     ends the process.
///   - A thread's outermost loop lets nothing through. ThreadPool, StreamWorker and the collectives make it the
///     failure of the job, the device or the collective. Tasks and handlers on an EventLoop end the connection
///     that they work for; what still reaches the loop ends all connections of the fabric
///     (Fabric::OnThreadError), never the process.
///
/// Threads are made by ThreadPool, StreamWorker, ShmCollective, NcclCollective, CallThread and EventLoop only, and
/// joined before the environment that they report to ends, but for one that hangs inside a library.

#include <dlfcn.h>
#include <napi.h>

#include <string>

#include "bridge/arguments.h"
#include "bridge/async.h"
#include "bridge/objects.h"
#include "system/base.h"
#include "system/faults.h"

namespace weightcast {
namespace {

Napi::Value MonotonicMillisecondsValue(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), MonotonicMilliseconds());
}

/// Why the dynamic linker does not load a library of that name, in its error text; null if it does.
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

void ArmFault(const Napi::CallbackInfo& info) {
  Guarded(info.Env(), [&] {
    faults::Arm(faults::PointOf(TextArgument(info[0], "point")), faults::ActionOf(TextArgument(info[1], "action")),
                static_cast<uint32_t>(WholeArgument(info[2], "milliseconds")));
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
  exports.Set("armFault", Napi::Function::New<ArmFault>(env, "armFault"));
  exports.Set("monotonicMilliseconds", Napi::Function::New<MonotonicMillisecondsValue>(env, "monotonicMilliseconds"));
  return exports;
}

}  // namespace
}  // namespace weightcast

Napi::Object InitialiseAddon(Napi::Env env, Napi::Object exports) { return weightcast::Initialise(env, exports); }

NODE_API_MODULE(weightcast, InitialiseAddon)
