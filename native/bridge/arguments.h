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

/// In a catch block: the exception in hand as a JavaScript Error, with `code` unless it is one already.
Napi::Error CurrentError(Napi::Env env);

/// Runs `body`, the native part of a function that JavaScript calls; what it throws is thrown in JavaScript.
template <class Body>
auto Guarded(Napi::Env env, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    throw CurrentError(env);
  }
}

/// Makes an object of a class that JavaScript cannot construct; its constructor gets `content` by TakeContent().
template <class Content>
Napi::Value NewObject(Napi::Env env, const Napi::FunctionReference& constructor, Content content,
                      Napi::Value owner = {}) {
  const auto external = Napi::External<Content>::New(env, &content);
  return owner.IsEmpty() ? constructor.New({external}) : constructor.New({external, owner});
}

/// Throws a TypeError, which says what makes such an object, where JavaScript called the constructor.
template <class Content>
Content TakeContent(const Napi::CallbackInfo& info, const char* made_by) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), made_by);
  return std::move(*info[0].As<Napi::External<Content>>().Data());
}

/// Whether the value is an object that its constructor has tagged so.
inline bool HasTag(const Napi::Value& value, const napi_type_tag& tag) {
  return value.IsObject() && value.As<Napi::Object>().CheckTypeTag(&tag);
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
