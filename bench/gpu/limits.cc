/// What the machine can do, asked of the CUDA driver with as little in between as there can be: the limits that our own
/// numbers are ratios to. Prints one line for each, as "name value unit".
///
///   g++ -std=c++17 -O2 -I native -o limits bench/gpu/limits.cc native/device/cuda/driver.cc
///       native/system/base.cc -pthread -ldl; ./limits [GiB of shared memory] [folder, /dev/shm]

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "device/cuda/driver.h"

namespace {

using namespace weightcast::cuda;

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kGiB = size_t{1} << 30;
constexpr unsigned kPortable = kHostRegisterPortable;

const Driver* driver;
Context context;
DeviceHandle device;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Print(const std::string& name, double value, const char* unit) {
  std::printf("%-58s %10.3f %s\n", name.c_str(), value, unit);
  std::fflush(stdout);
}

void Must(Result result, const char* what) { driver->Check(result, what); }

/// Seconds by the GPU's events that what `enqueue` puts on the stream takes; the best of three.
double GpuSeconds(Stream stream, const std::function<void()>& enqueue) {
  Event start = nullptr;
  Event end = nullptr;
  Must(driver->cuEventCreate(&start, 0), "event");
  Must(driver->cuEventCreate(&end, 0), "event");
  double best = 1e9;
  for (int round = 0; round < 3; round++) {
    Must(driver->cuEventRecord(start, stream), "record");
    enqueue();
    Must(driver->cuEventRecord(end, stream), "record");
    Result result = kErrorNotReady;
    while (result == kErrorNotReady) result = driver->cuEventQuery(end);
    Must(result, "wait");
    float milliseconds = 0;
    Must(driver->cuEventElapsedTime(&milliseconds, start, end), "elapsed");
    best = std::min(best, milliseconds / 1e3);
  }
  driver->cuEventDestroy(start);
  driver->cuEventDestroy(end);
  return best;
}

double Seconds(const std::function<void()>& body) {
  const double start = Now();
  body();
  return Now() - start;
}

class SharedFile {
 public:
  explicit SharedFile(const std::string& path, size_t bytes) : path_(path), bytes_(bytes) {
    descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (descriptor_ < 0 || posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes)) != 0) {
      std::perror(path.c_str());
      std::exit(1);
    }
    unlink(path.c_str());
  }
  ~SharedFile() { close(descriptor_); }

  uint8_t* Map(int protection = PROT_READ | PROT_WRITE) const {
    void* const memory = mmap(nullptr, bytes_, protection, MAP_SHARED, descriptor_, 0);
    if (memory == MAP_FAILED) std::abort();
    return static_cast<uint8_t*>(memory);
  }
  void Unmap(uint8_t* memory) const { munmap(memory, bytes_); }
  size_t bytes() const { return bytes_; }

 private:
  const std::string path_;
  const size_t bytes_;
  int descriptor_;
};

/// Runs body(offset, bytes) for equal parts, a thread each.
void InParts(size_t bytes, unsigned threads, const std::function<void(size_t, size_t)>& body) {
  const size_t step = bytes / threads;
  std::vector<std::thread> running;
  for (unsigned part = 0; part < threads; part++) {
    running.emplace_back([&, part] {
      const CurrentContext current(*driver, context);
      body(part * step, step);
    });
  }
  for (std::thread& thread : running) thread.join();
}

void Touch(uint8_t* memory, size_t bytes) {
  InParts(bytes, 8, [memory](size_t offset, size_t length) { std::memset(memory + offset, 1, length); });
}

void PrintRate(const std::string& name, size_t bytes, double seconds) {
  Print(name, static_cast<double>(bytes) / seconds / 1e9, "GB/s");
}

void MeasureHostToDevice(const SharedFile& file, Stream stream) {
  uint8_t* const host = file.Map();
  Touch(host, file.bytes());
  DevicePointer target = 0;
  Must(driver->cuMemAlloc(&target, kGiB), "allocate");
  const auto measure = [&](const std::string& name, size_t piece, size_t total) {
    const double seconds = GpuSeconds(stream, [&] {
      for (size_t offset = 0; offset < total; offset += piece) {
        Must(driver->cuMemcpyHtoDAsync(target + offset % kGiB, host + offset % file.bytes(), piece, stream), "copy");
      }
    });
    PrintRate(name, total, seconds);
  };
  measure("H2D not pinned, pieces of 64 MiB", 64 * kMiB, kGiB);
  Must(driver->cuMemHostRegister(host, file.bytes(), kPortable), "register");
  for (const size_t mebibytes : {1, 4, 16, 32, 64, 128, 256, 1024}) {
    measure("H2D pinned, pieces of " + std::to_string(mebibytes) + " MiB", mebibytes * kMiB, 4 * kGiB);
  }
  for (const size_t width : {256, 1024, 4096, 16384, 65536, 262144}) {
    Copy2D copy{};
    copy.source_type = kMemoryHost;
    copy.source_host = host;
    copy.source_pitch = 4 * width;
    copy.destination_type = kMemoryDevice;
    copy.destination_device = target;
    copy.destination_pitch = width;
    copy.row_bytes = width;
    copy.rows = 256 * kMiB / width;
    const double seconds = GpuSeconds(stream, [&] { Must(driver->cuMemcpy2DAsync(&copy, stream), "copy 2D"); });
    PrintRate("H2D pinned, rows of " + std::to_string(width) + " bytes, 1 in 4", 256 * kMiB, seconds);
  }
  Must(driver->cuMemHostUnregister(host), "unregister");
  driver->cuMemFree(target);
  file.Unmap(host);
}

void MeasurePinning(const SharedFile& file, Stream stream) {
  const size_t bytes = file.bytes();
  const auto once = [&](const std::string& name, uint8_t* host, unsigned flags) {
    Result result = kSuccess;
    const double seconds = Seconds([&] { result = driver->cuMemHostRegister(host, bytes, flags); });
    if (result != kSuccess) {
      std::printf("%-58s %s\n", name.c_str(), driver->ErrorText(result).c_str());
      return;
    }
    PrintRate(name, bytes, seconds);
    const double undone = Seconds([&] { Must(driver->cuMemHostUnregister(host), "unregister"); });
    PrintRate("  and unpin", bytes, undone);
  };
  uint8_t* const touched = file.Map();
  Touch(touched, bytes);
  once("pin, pages touched here, 1 thread", touched, kPortable);
  once("pin again, 1 thread", touched, kPortable);
  once("pin, pages touched here, flag read-only", touched, kPortable | kHostRegisterReadOnly);
  for (const unsigned threads : {2, 4, 8}) {
    const double seconds = Seconds([&] {
      InParts(bytes, threads, [&](size_t offset, size_t length) {
        Must(driver->cuMemHostRegister(touched + offset, length, kPortable), "register");
      });
    });
    PrintRate("pin in parts, touched, " + std::to_string(threads) + " threads", bytes, seconds);
    if (threads == 8) {
      DevicePointer target = 0;
      Must(driver->cuMemAlloc(&target, 64 * kMiB), "allocate");
      const Result across =
          driver->cuMemcpyHtoDAsync(target, touched + bytes / threads - 32 * kMiB, 64 * kMiB, stream);
      std::printf("%-58s %s\n", "copy across two pinned parts",
                  across == kSuccess ? "works" : driver->ErrorText(across).c_str());
      driver->cuStreamQuery(stream);
      sleep(1);
      driver->cuMemFree(target);
    }
    const double undone = Seconds([&] {
      InParts(bytes, threads, [&](size_t offset, size_t) { driver->cuMemHostUnregister(touched + offset); });
    });
    PrintRate("  and unpin", bytes, undone);
  }
  file.Unmap(touched);

  const auto fresh = [&](const std::string& name, int protection, unsigned flags,
                         const std::function<void(uint8_t*)>& prepare) {
    uint8_t* const host = file.Map(protection);
    const double seconds = Seconds([&] { prepare(host); });
    if (seconds > 1e-4) PrintRate("prepare: " + name, bytes, seconds);
    once(name, host, flags);
    file.Unmap(host);
  };
  const auto nothing = [](uint8_t*) {};
  const int write = PROT_READ | PROT_WRITE;
  fresh("pin, mapped afresh, 1 thread", write, kPortable, nothing);
  fresh("pin, mapped afresh for writing, flag read-only", write, kPortable | kHostRegisterReadOnly, nothing);
  fresh("pin, mapped afresh for reading, flag read-only", PROT_READ, kPortable | kHostRegisterReadOnly, nothing);
  fresh("pin, mapped afresh for reading, no flag", PROT_READ, kPortable, nothing);
  fresh("pin, MADV_POPULATE_WRITE by 1 thread before", write, kPortable,
        [&](uint8_t* host) { madvise(host, bytes, 23); });
  fresh("pin, MADV_POPULATE_WRITE by 8 threads before", write, kPortable, [&](uint8_t* host) {
    InParts(bytes, 8, [host](size_t offset, size_t length) { madvise(host + offset, length, 23); });
  });
  fresh("pin, MADV_POPULATE_READ by 8 threads before, read-only", PROT_READ, kPortable | kHostRegisterReadOnly,
        [&](uint8_t* host) {
          InParts(bytes, 8, [host](size_t offset, size_t length) { madvise(host + offset, length, 22); });
        });
  for (const unsigned threads : {4, 8}) {
    uint8_t* const host = file.Map();
    const double seconds = Seconds([&] {
      InParts(bytes, threads, [&](size_t offset, size_t length) {
        Must(driver->cuMemHostRegister(host + offset, length, kPortable), "register");
      });
    });
    PrintRate("pin in parts, mapped afresh, " + std::to_string(threads) + " threads", bytes, seconds);
    InParts(bytes, threads, [&](size_t offset, size_t) { driver->cuMemHostUnregister(host + offset); });
    file.Unmap(host);
  }
}

void MeasureMemory(Stream stream, const char* program) {
  DevicePointer pointer = 0;
  IpcMemoryHandle handle{};
  for (int round = 0; round < 3; round++) {
    const std::string number = ", round " + std::to_string(round);
    Print("allocate 1 GiB" + number, 1e3 * Seconds([&] { Must(driver->cuMemAlloc(&pointer, kGiB), "alloc"); }), "ms");
    Print("  its handle", 1e3 * Seconds([&] { Must(driver->cuIpcGetMemHandle(&handle, pointer), "handle"); }), "ms");
    Print("  free it", 1e3 * Seconds([&] { Must(driver->cuMemFree(pointer), "free"); }), "ms");
  }
  DevicePointer other = 0;
  Must(driver->cuMemAlloc(&pointer, kGiB), "allocate");
  Must(driver->cuMemAlloc(&other, kGiB), "allocate");
  const double seconds = GpuSeconds(stream, [&] {
    for (int round = 0; round < 8; round++) Must(driver->cuMemcpyDtoDAsync(other, pointer, kGiB, stream), "copy");
  });
  PrintRate("D2D of 1 GiB (bytes copied)", 8 * kGiB, seconds);
  Must(driver->cuIpcGetMemHandle(&handle, pointer), "handle");
  std::string digits;
  for (const unsigned char byte : handle.bytes) {
    char two[3];
    std::snprintf(two, sizeof(two), "%02x", byte);
    digits += two;
  }
  const std::string command = std::string(program) + " open " + digits;
  if (std::system(command.c_str()) != 0) std::printf("another process could not open the handle\n");
  driver->cuMemFree(pointer);
  driver->cuMemFree(other);
}

void OpenHandle(const char* digits) {
  IpcMemoryHandle handle{};
  for (size_t index = 0; index < sizeof(handle.bytes); index++) {
    unsigned byte = 0;
    std::sscanf(digits + 2 * index, "%2x", &byte);
    handle.bytes[index] = static_cast<unsigned char>(byte);
  }
  for (int round = 0; round < 3; round++) {
    DevicePointer pointer = 0;
    const std::string number = ", round " + std::to_string(round);
    Print("open the handle of 1 GiB" + number,
          1e3 * Seconds([&] { Must(driver->cuIpcOpenMemHandle(&pointer, handle, 1), "open"); }), "ms");
    Print("  close it", 1e3 * Seconds([&] { Must(driver->cuIpcCloseMemHandle(pointer), "close"); }), "ms");
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const double began = Now();
    driver = &Driver::Get();
    Must(driver->cuDeviceGet(&device, 0), "device");
    Must(driver->cuDevicePrimaryCtxRetain(&context, device), "context");
    const CurrentContext current(*driver, context);
    if (count == 3 && std::strcmp(arguments[1], "open") == 0) {
      OpenHandle(arguments[2]);
      return 0;
    }
    Print("driver and context", 1e3 * (Now() - began), "ms");
    char name[128] = {};
    driver->cuDeviceGetName(name, sizeof(name), device);
    int read_only = -1;
    driver->cuDeviceGetAttribute(&read_only, kAttributeReadOnlyHostRegister, device);
    std::printf("%s, CUDA %s, read-only register %d\n", name, VersionText(driver->version()).c_str(), read_only);
    Stream stream = nullptr;
    Must(driver->cuStreamCreate(&stream, kStreamNonBlocking), "stream");
    const size_t bytes = (count > 1 ? std::strtoul(arguments[1], nullptr, 10) : 4) * kGiB;
    MeasureMemory(stream, arguments[0]);
    const std::string folder = count > 2 ? arguments[2] : "/dev/shm";
    double reserve = Now();
    const SharedFile file(folder + "/weightcast-limits", bytes);
    PrintRate("reserve shared memory, 1 thread", bytes, Now() - reserve);
    MeasureHostToDevice(file, stream);
    MeasurePinning(file, stream);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
