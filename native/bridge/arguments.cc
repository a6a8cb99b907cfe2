#include "bridge/arguments.h"

#include <uv.h>

#include <cmath>
#include <cstring>

#include "bridge/objects.h"
#include "system/base.h"

namespace weightcast {

Napi::Error ErrorOf(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.what());
  const bool is_system = failure.error_number() != 0;
  error.Set("code", is_system ? std::string(uv_err_name(-failure.error_number())) : failure.code());
  return error;
}

Napi::Error CurrentError(Napi::Env env) {
  try {
    throw;
  } catch (const Napi::Error& error) {
    return error;
  } catch (...) {
    return ErrorOf(env, CurrentFailure());
  }
}

namespace {

constexpr double kLargestWhole = 9007199254740991;  // 2^53 - 1

bool IsWhole(double number) { return number >= 0 && number <= kLargestWhole && number == std::floor(number); }

[[noreturn]] void ThrowNotWhole(double number, const std::string& name) {
  throw Failure(code::kOutOfRange, name + " must be a whole number below 2^53, not " + std::to_string(number));
}

bool IsTypedArray(const Napi::Value& value, napi_typedarray_type type) {
  return value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == type;
}

}  // namespace

void ThrowArgumentType(Napi::Env env, const char* name, const char* expected) {
  Napi::TypeError error = Napi::TypeError::New(env, std::string(name) + " must be " + expected);
  error.Set("code", "ERR_INVALID_ARG_TYPE");
  throw error;
}

std::string TextArgument(const Napi::Value& value, const char* name) {
  if (!value.IsString()) ThrowArgumentType(value.Env(), name, "a string");
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) ThrowArgumentType(value.Env(), name, "a string without zero bytes");
  return text;
}

std::vector<std::string> TextsArgument(const Napi::Value& value, const char* name) {
  const Napi::Array array = ArrayArgument(value, name);
  std::vector<std::string> texts;
  for (uint32_t index = 0; index < array.Length(); index++) texts.push_back(TextArgument(array.Get(index), name));
  return texts;
}

uint64_t WholeArgument(const Napi::Value& value, const char* name) {
  if (!value.IsNumber()) ThrowArgumentType(value.Env(), name, "a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!IsWhole(number)) ThrowNotWhole(number, name);
  return static_cast<uint64_t>(number);
}

unsigned ThreadsArgument(const Napi::Value& value, const char* name) {
  constexpr uint64_t kMaxThreads = 256;
  const uint64_t threads = WholeArgument(value, name);
  if (threads == 0 || threads > kMaxThreads) {
    throw Failure(code::kOutOfRange,
                  "a thread pool has 1 to " + std::to_string(kMaxThreads) + " threads, not " + std::to_string(threads));
  }
  return static_cast<unsigned>(threads);
}

bool FlagArgument(const Napi::Value& value, const char* name) {
  if (!value.IsBoolean()) ThrowArgumentType(value.Env(), name, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

Napi::Object ObjectArgument(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) ThrowArgumentType(value.Env(), name, "an object");
  return value.As<Napi::Object>();
}

Napi::Array ArrayArgument(const Napi::Value& value, const char* name) {
  if (!value.IsArray()) ThrowArgumentType(value.Env(), name, "an array");
  return value.As<Napi::Array>();
}

Napi::Uint8Array BytesArgument(const Napi::Value& value, const char* name) {
  if (!IsTypedArray(value, napi_uint8_array)) ThrowArgumentType(value.Env(), name, "a Uint8Array");
  return value.As<Napi::Uint8Array>();
}

Napi::Float64Array NumbersArgument(const Napi::Value& value, const char* name) {
  if (!IsTypedArray(value, napi_float64_array)) ThrowArgumentType(value.Env(), name, "a Float64Array");
  return value.As<Napi::Float64Array>();
}

double* ProgressArgument(const Napi::Value& value) {
  if (value.IsNull()) return nullptr;
  Napi::Float64Array progress = NumbersArgument(value, "progress");
  if (progress.ElementLength() == 0) throw Failure(code::kOutOfRange, "progress must have an element");
  return progress.Data();
}

std::vector<uint64_t> WholeNumbers(const Napi::Value& value, const char* name, size_t group) {
  const Napi::Float64Array numbers = NumbersArgument(value, name);
  const size_t count = numbers.ElementLength();
  if (count % group != 0) {
    throw Failure(code::kOutOfRange, std::string(name) + " must hold groups of " + std::to_string(group) +
                                         " numbers, not " + std::to_string(count) + " numbers");
  }
  std::vector<uint64_t> whole;
  whole.reserve(count);
  for (size_t index = 0; index < count; index++) {
    const double number = numbers.Data()[index];
    if (!IsWhole(number)) ThrowNotWhole(number, std::string(name) + "[" + std::to_string(index) + "]");
    whole.push_back(static_cast<uint64_t>(number));
  }
  return whole;
}

Bytes CopiedBytes(const Napi::Value& value, const char* name) {
  const Napi::Uint8Array bytes = BytesArgument(value, name);
  return Bytes(bytes.Data(), bytes.Data() + bytes.ByteLength());
}

void CopyBytes(const Napi::Value& value, const char* name, uint8_t* destination, size_t count) {
  const Napi::Uint8Array bytes = BytesArgument(value, name);
  if (bytes.ByteLength() != count) {
    throw Failure(code::kOutOfRange, std::string(name) + " has " + std::to_string(count) + " bytes, not " +
                                         std::to_string(bytes.ByteLength()));
  }
  std::memcpy(destination, bytes.Data(), count);
}

std::shared_ptr<Mapping> MappingArgument(const Napi::Value& value, const char* name) {
  if (const MappingObject* mapping = MappingObject::From(value)) return mapping->Open();
  if (const DeviceBufferObject* buffer = DeviceBufferObject::From(value)) return buffer->Open();
  ThrowArgumentType(value.Env(), name, "a Mapping or a DeviceBuffer");
}

std::shared_ptr<ThreadPool> ThreadPoolArgument(const Napi::Value& value, const char* name) {
  if (std::shared_ptr<ThreadPool> pool = ThreadPoolObject::From(value)) return pool;
  ThrowArgumentType(value.Env(), name, "a ThreadPool");
}

Napi::Value MemoryValue(Napi::Env env, const DeviceMemory& measured) {
  Napi::Object memory = Napi::Object::New(env);
  memory.Set("free", static_cast<double>(measured.free));
  memory.Set("total", static_cast<double>(measured.total));
  return memory;
}

Napi::Value DigestsValue(Napi::Env env, const std::vector<uint64_t>& digests) {
  Napi::BigUint64Array array = Napi::BigUint64Array::New(env, digests.size());
  for (size_t index = 0; index < digests.size(); index++) array.Data()[index] = digests[index];
  return array;
}

}  // namespace weightcast
