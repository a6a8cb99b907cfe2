#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "system/base.h"

namespace weightcast::cuda {

/// The part of the CUDA driver API that we use, declared here so that no toolkit is needed to build, and looked up in
/// `libcuda.so.1` when a device is first asked for. Types have the driver's ABI; functions keep their names, each
/// bound to the symbol that the header of CUDA 12 and 13 binds it to.

/// CUresult.
using Result = int;
/// CUdevice: not the ordinal, though today's drivers use the same number.
using DeviceHandle = int;
using DevicePointer = unsigned long long;
using Context = struct ContextObject*;
using Stream = struct StreamObject*;
using Event = struct EventObject*;
using Module = struct ModuleObject*;
using Function = struct FunctionObject*;
using HostFunction = void (*)(void* data);

struct Uuid {
  unsigned char bytes[16];
};
struct IpcMemoryHandle {
  unsigned char bytes[64];
};

/// CUDA_MEMCPY2D.
struct Copy2D {
  size_t source_x;
  size_t source_y;
  int source_type;
  const void* source_host;
  DevicePointer source_device;
  void* source_array;
  size_t source_pitch;
  size_t destination_x;
  size_t destination_y;
  int destination_type;
  void* destination_host;
  DevicePointer destination_device;
  void* destination_array;
  size_t destination_pitch;
  size_t row_bytes;
  size_t rows;
};

inline constexpr Result kSuccess = 0;
inline constexpr Result kErrorOutOfMemory = 2;
inline constexpr Result kErrorDeinitialized = 4;
inline constexpr Result kErrorNoDevice = 100;
inline constexpr Result kErrorNotReady = 600;

inline constexpr unsigned kContextBlockingSync = 0x4;
inline constexpr unsigned kStreamNonBlocking = 0x1;
inline constexpr unsigned kEventDisableTiming = 0x2;
inline constexpr unsigned kIpcLazyEnablePeerAccess = 0x1;
inline constexpr unsigned kHostRegisterPortable = 0x1;
inline constexpr unsigned kHostRegisterReadOnly = 0x8;
inline constexpr unsigned kHostAllocPortable = 0x1;
inline constexpr int kMemoryHost = 1;
inline constexpr int kMemoryDevice = 2;
inline constexpr int kAttributeMaxPitch = 11;
inline constexpr int kAttributeMultiprocessorCount = 16;
inline constexpr int kAttributeReadOnlyHostRegister = 113;

/// Every function of the table: its name, the symbol it is bound to, and its parameters.
#define WEIGHTCAST_CUDA_FUNCTIONS(FUNCTION)                                                                           \
  FUNCTION(cuInit, "cuInit", (unsigned flags))                                                                        \
  FUNCTION(cuDriverGetVersion, "cuDriverGetVersion", (int* version))                                                  \
  FUNCTION(cuGetErrorName, "cuGetErrorName", (Result error, const char** name))                                       \
  FUNCTION(cuGetErrorString, "cuGetErrorString", (Result error, const char** text))                                   \
  FUNCTION(cuDeviceGetCount, "cuDeviceGetCount", (int* count))                                                        \
  FUNCTION(cuDeviceGet, "cuDeviceGet", (DeviceHandle* device, int ordinal))                                           \
  FUNCTION(cuDeviceGetName, "cuDeviceGetName", (char* name, int bytes, DeviceHandle device))                          \
  FUNCTION(cuDeviceGetUuid, "cuDeviceGetUuid_v2", (Uuid* uuid, DeviceHandle device))                                  \
  FUNCTION(cuDeviceGetParentUuid, "cuDeviceGetUuid", (Uuid* uuid, DeviceHandle device))                               \
  FUNCTION(cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t* bytes, DeviceHandle device))                             \
  FUNCTION(cuDeviceGetPCIBusId, "cuDeviceGetPCIBusId", (char* id, int bytes, DeviceHandle device))                    \
  FUNCTION(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int* value, int attribute, DeviceHandle device))            \
  FUNCTION(cuDevicePrimaryCtxSetFlags, "cuDevicePrimaryCtxSetFlags_v2", (DeviceHandle device, unsigned flags))        \
  FUNCTION(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (Context * context, DeviceHandle device))            \
  FUNCTION(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (DeviceHandle device))                          \
  FUNCTION(cuCtxPushCurrent, "cuCtxPushCurrent_v2", (Context context))                                                \
  FUNCTION(cuCtxPopCurrent, "cuCtxPopCurrent_v2", (Context * context))                                                \
  FUNCTION(cuMemGetInfo, "cuMemGetInfo_v2", (size_t * free, size_t * total))                                          \
  FUNCTION(cuMemAlloc, "cuMemAlloc_v2", (DevicePointer * pointer, size_t bytes))                                      \
  FUNCTION(cuMemFree, "cuMemFree_v2", (DevicePointer pointer))                                                        \
  FUNCTION(cuMemGetAddressRange, "cuMemGetAddressRange_v2",                                                           \
           (DevicePointer * base, size_t * bytes, DevicePointer pointer))                                             \
  FUNCTION(cuMemHostAlloc, "cuMemHostAlloc", (void** memory, size_t bytes, unsigned flags))                           \
  FUNCTION(cuMemFreeHost, "cuMemFreeHost", (void* memory))                                                            \
  FUNCTION(cuMemHostRegister, "cuMemHostRegister_v2", (void* memory, size_t bytes, unsigned flags))                   \
  FUNCTION(cuMemHostUnregister, "cuMemHostUnregister", (void* memory))                                                \
  FUNCTION(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2",                                                                 \
           (DevicePointer destination, const void* source, size_t bytes, Stream stream))                              \
  FUNCTION(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2",                                                                 \
           (void* destination, DevicePointer source, size_t bytes, Stream stream))                                    \
  FUNCTION(cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2",                                                                 \
           (DevicePointer destination, DevicePointer source, size_t bytes, Stream stream))                            \
  FUNCTION(cuMemcpy2DAsync, "cuMemcpy2DAsync_v2", (const Copy2D* copy, Stream stream))                                \
  FUNCTION(cuIpcGetMemHandle, "cuIpcGetMemHandle", (IpcMemoryHandle * handle, DevicePointer pointer))                 \
  FUNCTION(cuIpcOpenMemHandle, "cuIpcOpenMemHandle_v2",                                                               \
           (DevicePointer * pointer, IpcMemoryHandle handle, unsigned flags))                                         \
  FUNCTION(cuIpcCloseMemHandle, "cuIpcCloseMemHandle", (DevicePointer pointer))                                       \
  FUNCTION(cuStreamCreate, "cuStreamCreate", (Stream * stream, unsigned flags))                                       \
  FUNCTION(cuStreamDestroy, "cuStreamDestroy_v2", (Stream stream))                                                    \
  FUNCTION(cuStreamQuery, "cuStreamQuery", (Stream stream))                                                           \
  FUNCTION(cuStreamWaitEvent, "cuStreamWaitEvent", (Stream stream, Event event, unsigned flags))                      \
  FUNCTION(cuLaunchHostFunc, "cuLaunchHostFunc", (Stream stream, HostFunction function, void* data))                  \
  FUNCTION(cuEventCreate, "cuEventCreate", (Event * event, unsigned flags))                                           \
  FUNCTION(cuEventDestroy, "cuEventDestroy_v2", (Event event))                                                        \
  FUNCTION(cuEventRecord, "cuEventRecord", (Event event, Stream stream))                                              \
  FUNCTION(cuEventQuery, "cuEventQuery", (Event event))                                                               \
  FUNCTION(cuEventElapsedTime, "cuEventElapsedTime", (float* milliseconds, Event start, Event end))                   \
  FUNCTION(cuModuleLoadData, "cuModuleLoadData", (Module * module, const void* image))                                \
  FUNCTION(cuModuleUnload, "cuModuleUnload", (Module module))                                                         \
  FUNCTION(cuModuleGetFunction, "cuModuleGetFunction", (Function * function, Module module, const char* name))        \
  FUNCTION(cuLaunchKernel, "cuLaunchKernel",                                                                          \
           (Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, \
            unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters, void** extra))

/// The functions of the driver, and what its results mean. One for the process; never unloaded. Safe among threads.
///
/// `attempt` in what follows is the start of a message, without full stop: "cannot copy to device GPU-1234".
class Driver {
 public:
  /// Loads and initialises the driver on the first call. Throws CUDA where there is no driver, it is too old, or it
  /// refuses to start; a later call tries again.
  static const Driver& Get();

  /// The newest CUDA that the driver supports: 1000 * major + 10 * minor.
  int version() const { return version_; }

  /// Throws FailureOf() unless the call succeeded.
  void Check(Result result, const char* attempt) const {
    if (result != kSuccess) throw FailureOf(result, attempt);
  }
  void Check(Result result, const std::string& attempt) const {
    if (result != kSuccess) throw FailureOf(result, attempt);
  }

  /// The attempt followed by the driver's error text. DEVICE_LOST if no call on the device can succeed any more,
  /// OUT_OF_DEVICE_MEMORY, or else CUDA.
  Failure FailureOf(Result result, const std::string& attempt) const;

  /// "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)".
  std::string ErrorText(Result result) const;

  /// Whether the error stays with the context: every later call fails too, and only a new process gets a sound one.
  static bool IsSticky(Result result);

#define WEIGHTCAST_DECLARE(name, symbol, parameters) Result(*name) parameters = nullptr;
  WEIGHTCAST_CUDA_FUNCTIONS(WEIGHTCAST_DECLARE)
#undef WEIGHTCAST_DECLARE

 private:
  Driver();

  int version_ = 0;
};

/// "12.4" for 12040.
std::string VersionText(int version);

/// Makes a context current for the calling thread until the end of the scope. Cheap; scopes nest.
class CurrentContext {
 public:
  /// Throws as Driver::Check.
  CurrentContext(const Driver& driver, Context context);
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  const Driver& driver_;
};

}  // namespace weightcast::cuda
