#include "device/cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>

namespace weightcast::cuda {
namespace {

constexpr char kLibrary[] = "libcuda.so.1";
/// The first with cuDeviceGetUuid_v2; everything else is older.
constexpr int kOldestVersion = 11040;
constexpr char kOldestDriver[] = "CUDA 11.4 (driver 470)";

void* Load() {
  // Never closed: the driver has threads of its own.
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const char* const words = dlerror();
  throw Failure(code::kCuda, std::string("cannot load the NVIDIA driver (") + (words ? words : kLibrary) +
                                 "); install it, or give the container its GPUs (docker run --gpus all)");
}

[[noreturn]] void ThrowTooOld(const std::string& what) {
  throw Failure(code::kCuda, "the NVIDIA driver " + what + "; update it to one for " + kOldestDriver + " or newer");
}

void* Find(void* library, const char* symbol) {
  void* const found = dlsym(library, symbol);
  if (found == nullptr) ThrowTooOld(std::string("has no function ") + symbol);
  return found;
}

std::string VisibleDevices() {
  const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible == nullptr) return "CUDA_VISIBLE_DEVICES is not set";
  return std::string("CUDA_VISIBLE_DEVICES is \"") + visible + "\"";
}

}  // namespace

const Driver& Driver::Get() {
  // Never destroyed: threads and objects may use it while the process exits.
  static const Driver* const driver = new Driver;
  return *driver;
}

Driver::Driver() {
  void* const library = Load();
  // Asked before anything else, because an old driver lacks functions of the table.
  cuDriverGetVersion = reinterpret_cast<decltype(cuDriverGetVersion)>(Find(library, "cuDriverGetVersion"));
  if (const Result result = cuDriverGetVersion(&version_); result != kSuccess) {
    throw Failure(code::kCuda, "cannot ask the NVIDIA driver its version: error " + std::to_string(result));
  }
  if (version_ < kOldestVersion) ThrowTooOld("supports CUDA " + VersionText(version_));
#define WEIGHTCAST_FIND(name, symbol, parameters) name = reinterpret_cast<decltype(name)>(Find(library, symbol));
  WEIGHTCAST_CUDA_FUNCTIONS(WEIGHTCAST_FIND)
#undef WEIGHTCAST_FIND
  const Result result = cuInit(0);
  if (result == kErrorNoDevice) {
    throw Failure(code::kCuda, "the NVIDIA driver sees no GPU (" + VisibleDevices() + "); check with nvidia-smi");
  }
  if (result != kSuccess) {
    // Never DEVICE_LOST: there is no device yet.
    throw Failure(code::kCuda, "cannot start the NVIDIA driver: " + ErrorText(result) + "; check with nvidia-smi");
  }
}

Failure Driver::FailureOf(Result result, const std::string& attempt) const {
  const char* code = code::kCuda;
  if (result == kErrorOutOfMemory) code = code::kOutOfDeviceMemory;
  if (IsSticky(result)) code = code::kDeviceLost;
  return Failure(code, attempt + ": " + ErrorText(result));
}

std::string Driver::ErrorText(Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  // Both leave the pointer null for a number that they do not know.
  cuGetErrorName(result, &name);
  cuGetErrorString(result, &text);
  if (name == nullptr || text == nullptr) return "CUDA error " + std::to_string(result);
  return std::string(text) + " (" + name + ")";
}

bool Driver::IsSticky(Result result) {
  switch (result) {
    case kErrorDeinitialized:
    case 214:  // ECC_UNCORRECTABLE
    case 220:  // NVLINK_UNCORRECTABLE
    case 226:  // CONTAINED
    case 700:  // ILLEGAL_ADDRESS
    case 702:  // LAUNCH_TIMEOUT
    case 709:  // CONTEXT_IS_DESTROYED
    case 710:  // ASSERT
    case 714:  // HARDWARE_STACK_ERROR
    case 715:  // ILLEGAL_INSTRUCTION
    case 716:  // MISALIGNED_ADDRESS
    case 717:  // INVALID_ADDRESS_SPACE
    case 718:  // INVALID_PC
    case 719:  // LAUNCH_FAILED
    case 721:  // TENSOR_MEMORY_LEAK
    case 810:  // MPS_CLIENT_TERMINATED
    case 911:  // EXTERNAL_DEVICE
    case 999:  // UNKNOWN
      return true;
    default:
      return false;
  }
}

std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

CurrentContext::CurrentContext(const Driver& driver, Context context) : driver_(driver) {
  driver_.Check(driver_.cuCtxPushCurrent(context), "cannot enter the context of the device");
}

CurrentContext::~CurrentContext() {
  Context context = nullptr;
  driver_.cuCtxPopCurrent(&context);
}

}  // namespace weightcast::cuda
