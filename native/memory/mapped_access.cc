#include "memory/mapped_access.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "system/base.h"

namespace weightcast {
namespace {

/// Of this thread. The handler may run in a thread that has never touched it, and must not allocate it then.
__attribute__((tls_model("initial-exec"))) thread_local const MappedAccess* innermost = nullptr;

struct sigaction previous;
uintptr_t page_bytes;

/// What would have become of the signal without this handler.
void PassOn(int signal, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
    return;
  }
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
    return;
  }
  const bool was_sent = info->si_code <= 0;
  if (was_sent && previous.sa_handler == SIG_IGN) return;
  // A fault comes again as soon as this returns, and ends the process.
  struct sigaction usual{};
  usual.sa_handler = SIG_DFL;
  sigaction(signal, &usual, nullptr);
  if (was_sent) raise(signal);
}

void OnBusError(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  bool covered = false;
  // A hardware error of the memory (BUS_MCEERR_AR) is none of ours.
  if (info->si_code == BUS_ADRERR) {
    for (const MappedAccess* each = innermost; each != nullptr && !covered; each = each->outer()) {
      covered = each->Cover(info->si_addr);
    }
  }
  if (!covered) PassOn(signal, info, context);
  errno = error;
}

bool Install() {
  page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action{};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  return sigaction(SIGBUS, &action, &previous) == 0;
}

}  // namespace

MappedAccess::MappedAccess(const Mapping& mapping) : mapping_(mapping), outer_(innermost) {
  static const bool installed = Install();
  (void)installed;
  innermost = this;
}

MappedAccess::~MappedAccess() { innermost = outer_; }

void MappedAccess::Finish() const {
  if (!mapping_.has_holes()) return;
  throw Failure(code::kFileEnded, mapping_.path() + " was truncated while it was in use");
}

bool MappedAccess::Cover(void* address) const {
  const auto begin = reinterpret_cast<uintptr_t>(mapping_.data());
  const auto at = reinterpret_cast<uintptr_t>(address);
  const uintptr_t end = (begin + mapping_.bytes() + page_bytes - 1) / page_bytes * page_bytes;
  if (at < begin || at >= end) return false;
  mapping_.MarkHoles();
  // What a file has lost is its end. By a system call, as a handler must not call what is intercepted.
  const uintptr_t page = at / page_bytes * page_bytes;
  const int protection = PROT_READ | (mapping_.writable() ? PROT_WRITE : 0);
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  return syscall(SYS_mmap, page, end - page, protection, flags, -1, 0) == static_cast<long>(page);
}

}  // namespace weightcast
