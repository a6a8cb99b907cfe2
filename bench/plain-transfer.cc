// What bench/fabric.ts and bench/registration.ts compare with: the same bytes moved by nothing but memcpy(3), by send(2) and
// recv(2) on blocking sockets of two processes, or by pread(2). Reads commands from standard input, `memcpy THREADS PIECE BYTES` or
// `tcp STREAMS PIECE BYTES`, moves BYTES bytes in pieces of PIECE bytes, one after the other, each shared by all
// threads or streams, and answers with the seconds it took. `loop STREAMS PIECE BYTES` does not wait between pieces.
// `read THREADS PIECE BYTES PATH` reads a file past the page cache, a piece a time on each thread, and keeps nothing.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kMemory = size_t{256} << 20;

void Check(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  std::exit(1);
}

uint8_t* SharedMemory() {
  void* const memory = mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  Check(memory != MAP_FAILED, "mmap");
  std::memset(memory, 1, kMemory);
  return static_cast<uint8_t*>(memory);
}

template <class Body>
double Seconds(Body body) {
  const auto began = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

/// Runs body(thread) on so many threads and waits for them.
template <class Body>
void OnThreads(unsigned count, Body body) {
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < count; thread++) threads.emplace_back(body, thread);
  for (std::thread& thread : threads) thread.join();
}

double Memcpy(uint8_t* destination, const uint8_t* source, unsigned threads, size_t piece, size_t bytes) {
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, threads);
  const size_t share = piece / threads;
  return Seconds([&] {
    OnThreads(threads, [&](unsigned thread) {
      for (size_t at = 0; at < bytes; at += piece) {
        const size_t offset = at % kMemory + thread * share;
        std::memcpy(destination + offset, source + offset, share);
        pthread_barrier_wait(&barrier);
      }
    });
  });
}

void SendAll(int socket, const uint8_t* bytes, size_t count) {
  while (count > 0) {
    const ssize_t sent = send(socket, bytes, count, MSG_NOSIGNAL);
    if (sent <= 0) std::_Exit(1);
    bytes += sent;
    count -= static_cast<size_t>(sent);
  }
}

bool ReceiveAll(int socket, uint8_t* bytes, size_t count) {
  while (count > 0) {
    const ssize_t got = recv(socket, bytes, count, 0);
    if (got <= 0) return false;
    bytes += got;
    count -= static_cast<size_t>(got);
  }
  return true;
}

/// Connected pairs over loopback, first end and second end.
std::vector<std::pair<int, int>> Connections(unsigned count) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  Check(bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
  Check(listen(listener, 64) == 0, "listen");
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  std::vector<std::pair<int, int>> pairs;
  for (unsigned index = 0; index < count; index++) {
    const int first = socket(AF_INET, SOCK_STREAM, 0);
    Check(connect(first, reinterpret_cast<sockaddr*>(&address), length) == 0, "connect");
    const int second = accept(listener, nullptr, nullptr);
    Check(second >= 0, "accept");
    const int on = 1;
    for (const int each : {first, second}) setsockopt(each, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    pairs.emplace_back(first, second);
  }
  close(listener);
  return pairs;
}

/// With `in_step` the receiver asks for its part of each piece on every stream, and waits for all before the next.
double Tcp(uint8_t* destination, const uint8_t* source, unsigned streams, size_t piece, size_t bytes, bool in_step) {
  const auto pairs = Connections(streams);
  const size_t share = piece / streams;
  const pid_t sender = fork();
  Check(sender >= 0, "fork");
  if (sender == 0) {
    for (const auto& pair : pairs) close(pair.first);
    OnThreads(streams, [&](unsigned stream) {
      for (size_t at = 0; at < bytes; at += piece) {
        uint8_t request;
        if (in_step && !ReceiveAll(pairs[stream].second, &request, 1)) std::_Exit(1);
        SendAll(pairs[stream].second, source + at % kMemory + stream * share, share);
      }
    });
    std::_Exit(0);
  }
  for (const auto& pair : pairs) close(pair.second);
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, streams);
  const double seconds = Seconds([&] {
    OnThreads(streams, [&](unsigned stream) {
      for (size_t at = 0; at < bytes; at += piece) {
        const uint8_t request = 1;
        if (in_step) SendAll(pairs[stream].first, &request, 1);
        Check(ReceiveAll(pairs[stream].first, destination + at % kMemory + stream * share, share), "recv");
        if (in_step) pthread_barrier_wait(&barrier);
      }
    });
  });
  for (const auto& pair : pairs) close(pair.first);
  waitpid(sender, nullptr, 0);
  return seconds;
}

/// With as many reads of a piece under way as there are threads.
double ReadDirect(const std::string& path, unsigned threads, size_t piece, size_t bytes) {
  const int file = open(path.c_str(), O_RDONLY | O_DIRECT);
  Check(file >= 0, "open");
  std::atomic<size_t> next{0};
  const double seconds = Seconds([&] {
    OnThreads(threads, [&](unsigned) {
      void* buffer;
      Check(posix_memalign(&buffer, size_t{2} << 20, piece) == 0, "posix_memalign");
      madvise(buffer, piece, MADV_HUGEPAGE);
      for (size_t at = next.fetch_add(piece); at < bytes; at = next.fetch_add(piece)) {
        Check(pread(file, buffer, piece, static_cast<off_t>(at)) > 0, "pread");
      }
      std::free(buffer);
    });
  });
  close(file);
  return seconds;
}

double Run(const std::string& name, unsigned ways, size_t piece, size_t bytes) {
  if (name == "read") {
    char path[4096];
    Check(std::scanf(" %4095[^\n]", path) == 1, "a path");
    return ReadDirect(path, ways, piece, bytes);
  }
  static uint8_t* const source = SharedMemory();
  static uint8_t* const destination = SharedMemory();
  if (name == "memcpy") return Memcpy(destination, source, ways, piece, bytes);
  return Tcp(destination, source, ways, piece, bytes, name == "tcp");
}

}  // namespace

int main() {
  char command[16];
  unsigned ways;
  size_t piece;
  size_t bytes;
  while (std::scanf("%15s %u %zu %zu", command, &ways, &piece, &bytes) == 4) {
    std::printf("%.9f\n", Run(command, ways, piece, bytes));
    std::fflush(stdout);
  }
}
