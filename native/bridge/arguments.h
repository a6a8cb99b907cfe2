#pragma once

#include <napi.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/device_memory.h"
#include "memory/mapping.h"
#include "memory/thread_pool.h"
#include "system/base.h"

namespace weightcast {

/// The failure as a JavaScript Error with `code`.
Napi::Error ErrorOf(Napi::Env env, const Failure& failure);

/// Runs `body`, which native code may leave with a Failure; JavaScript then sees it as an Error with `code`.
template <class Body>
auto Guarded(Napi::Env env, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const Failure& failure) {
    throw ErrorOf(env, failure);
  }
}

/// Readers of arguments. `name` is what the argument is called in the error. They throw a TypeError
/// (`ERR_INVALID_ARG_TYPE`) for a wrong type and OUT_OF_RANGE for a number that is no whole number below 2^53.

[[noreturn]] void ThrowArgumentType(Napi::Env env, const char* name, const char* expected);

std::string TextArgument(const Napi::Value& value, const char* name);
std::vector<std::string> TextsArgument(const Napi::Value& value, const char* name);
uint64_t WholeArgument(const Napi::Value& value, const char* name);
/// A number of threads for a pool: 1 to 256.
unsigned ThreadsArgument(const Napi::Value& value, const char* name);
bool FlagArgument(const Napi::Value& value, const char* name);
/// Null and undefined are refused.
Napi::Object ObjectArgument(const Napi::Value& value, const char* name);
Napi::Array ArrayArgument(const Napi::Value& value, const char* name);
Napi::Uint8Array BytesArgument(const Napi::Value& value, const char* name);
Napi::Float64Array NumbersArgument(const Napi::Value& value, const char* name);

/// Where threads count bytes, the first element of a Float64Array; null for null.
double* ProgressArgument(const Napi::Value& value);

/// The whole numbers of a Float64Array in groups of `group`, copied. Throws OUT_OF_RANGE if they do not come out even.
std::vector<uint64_t> WholeNumbers(const Napi::Value& value, const char* name, size_t group);

/// Groups of whole numbers as structures that consist of just that many of them.
template <class Structure>
std::vector<Structure> Structures(const Napi::Value& value, const char* name) {
  static_assert(std::is_trivially_copyable_v<Structure> && sizeof(Structure) % sizeof(uint64_t) == 0);
  constexpr size_t kGroup = sizeof(Structure) / sizeof(uint64_t);
  const std::vector<uint64_t> numbers = WholeNumbers(value, name, kGroup);
  std::vector<Structure> structures(numbers.size() / kGroup);
  if (!numbers.empty()) std::memcpy(structures.data(), numbers.data(), numbers.size() * sizeof(uint64_t));
  return structures;
}

/// The bytes of a Uint8Array, copied.
Bytes CopiedBytes(const Napi::Value& value, const char* name);
/// The same, of exactly so many bytes. Throws OUT_OF_RANGE.
void CopyBytes(const Napi::Value& value, const char* name, uint8_t* destination, size_t count);
template <class Array>
Array FixedBytes(const Napi::Value& value, const char* name) {
  Array array;
  CopyBytes(value, name, array.data(), array.size());
  return array;
}

/// The memory of a Mapping or a DeviceBuffer. Throws CLOSED if it has been closed or freed.
std::shared_ptr<Mapping> MappingArgument(const Napi::Value& value, const char* name);
std::shared_ptr<ThreadPool> ThreadPoolArgument(const Napi::Value& value, const char* name);

/// What several classes return to JavaScript.

/// { free, total }
Napi::Value MemoryValue(Napi::Env env, const DeviceMemory& measured);

/// A BigUint64Array.
Napi::Value DigestsValue(Napi::Env env, const std::vector<uint64_t>& digests);

}  // namespace weightcast
