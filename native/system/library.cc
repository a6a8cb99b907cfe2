#include "system/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>

#include "system/failure.h"

namespace weightcast {
namespace {

using Library = std::unique_ptr<void, int (*)(void*)>;

Library Load(const std::string& name) { return Library(dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL), dlclose); }

std::string LinkersWords() {
  const char* const words = dlerror();
  return words == nullptr ? "unknown reason" : words;
}

}  // namespace

std::optional<std::string> WhyNotLoaded(const std::string& name) {
  if (Load(name)) return std::nullopt;
  return LinkersWords();
}

std::string NcclName() {
  const char* const given = std::getenv("WEIGHTCAST_NCCL");
  return given != nullptr && *given != '\0' ? given : "libnccl.so.2";
}

int NcclVersion() {
  const std::string name = NcclName();
  const Library library = Load(name);
  if (!library) throw Failure("ENOENT", LinkersWords());
  // ncclResult_t ncclGetVersion(int*)
  const auto get_version = reinterpret_cast<int (*)(int*)>(dlsym(library.get(), "ncclGetVersion"));
  int version = 0;
  if (get_version == nullptr || get_version(&version) != 0) {
    throw Failure("ENOENT", name + " does not tell its version");
  }
  return version;
}

}  // namespace weightcast
