#include "collective/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "system/library.h"

namespace weightcast::nccl {
namespace {

constexpr int kOldestVersion = 21900;
constexpr int kSharedDeviceVersion = 23007;

std::string TextOf(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

void* Load(const std::string& name) {
  // NCCL reads its variables when it is loaded and used first. An existing value is the user's and stays.
  setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const char* const words = dlerror();
  throw Failure(code::kNccl, std::string("cannot load NCCL (") + (words ? words : name) + "); install it, or set "
                                 "WEIGHTCAST_NCCL to its libnccl.so.2");
}

void* Find(void* library, const std::string& name, const char* symbol) {
  void* const found = dlsym(library, symbol);
  if (found != nullptr) return found;
  throw Failure(code::kNccl, name + " has no function " + symbol + "; it is not NCCL " + TextOf(kOldestVersion) +
                                 " or newer");
}

std::string OneLine(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& each : text) {
    if (each == '\n') each = ' ';
  }
  return text;
}

}  // namespace

const Library& Library::Get() {
  // Never destroyed: threads may use it while the process exits.
  static const Library* const library = new Library;
  return *library;
}

Library::Library() {
  const std::string name = NcclName();
  void* const library = Load(name);
#define WEIGHTCAST_FIND(result, function, parameters) \
  function = reinterpret_cast<decltype(function)>(Find(library, name, #function));
  WEIGHTCAST_NCCL_FUNCTIONS(WEIGHTCAST_FIND)
#undef WEIGHTCAST_FIND
  Check(ncclGetVersion(&version_), "cannot ask NCCL its version");
  if (version_ < kOldestVersion) {
    throw Failure(code::kNccl, name + " is NCCL " + TextOf(version_) + "; " + TextOf(kOldestVersion) +
                                   " or newer is needed");
  }
}

std::string Library::VersionText() const { return TextOf(version_); }

bool Library::AllowsSharedDevices() const { return version_ >= kSharedDeviceVersion; }

Failure Library::FailureOf(Result result, const std::string& attempt) const {
  std::string message = attempt + ": " + ncclGetErrorString(result);
  if (const char* const last = ncclGetLastError(nullptr); last != nullptr && *last != '\0') {
    message += " (" + OneLine(last) + ")";
  }
  if (result == kInvalidUsage && !AllowsSharedDevices()) {
    message += "; NCCL " + VersionText() + " refuses several ranks on one GPU, " + TextOf(kSharedDeviceVersion) +
               " allows them";
  }
  return Failure(result == kRemoteError ? code::kPeerLost : code::kNccl, message);
}

}  // namespace weightcast::nccl
