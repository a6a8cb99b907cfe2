#include "memory/shared_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "system/base.h"

namespace weightcast {
namespace {

constexpr char kLockName[] = "lock";
/// How long a joiner waits for a leaver that is removing the directory.
constexpr double kJoinMilliseconds = 5000;

bool IsSameFile(const struct stat& left, const struct stat& right) {
  return left.st_dev == right.st_dev && left.st_ino == right.st_ino;
}

/// Whether `lock` is (still) the file that the directory's name leads to: another process may have removed it
/// between our open and our lock.
bool IsCurrentLock(const std::string& directory, int lock) {
  struct stat opened{};
  struct stat named{};
  return fstat(lock, &opened) == 0 && lstat((directory + "/" + kLockName).c_str(), &named) == 0 &&
         IsSameFile(opened, named);
}

/// Refuses what another user may have put at a name in a directory that all may write to.
void CheckOwner(const std::string& path) {
  struct stat found{};
  if (lstat(path.c_str(), &found) != 0) return;  // removed meanwhile; the caller tries again
  if (!S_ISDIR(found.st_mode)) throw Failure::System(ENOTDIR, "cannot join " + path);
  if (found.st_uid != geteuid()) {
    throw Failure("EACCES", "cannot join " + path + ": it belongs to user " + std::to_string(found.st_uid));
  }
}

/// One attempt to join; no descriptor if another process was in the middle of removing the directory.
UniqueFd TryJoin(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0) {
    if (errno != EEXIST) throw Failure::System(errno, "cannot make the directory " + path);
    CheckOwner(path);
  }
  const std::string lock_path = path + "/" + kLockName;
  UniqueFd lock(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) {
    if (errno == ENOENT) return UniqueFd();
    throw Failure::System(errno, "cannot open " + lock_path);
  }
  if (flock(lock.get(), LOCK_SH | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK || errno == EINTR) return UniqueFd();
    throw Failure::System(errno, "cannot lock " + lock_path);
  }
  if (!IsCurrentLock(path, lock.get())) return UniqueFd();
  return lock;
}

std::vector<std::string> EntriesOf(DIR* directory) {
  std::vector<std::string> names;
  while (const dirent* entry = readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != ".." && name != kLockName) names.push_back(name);
  }
  return names;
}

/// The caller holds the exclusive lock of the current lock file, so there is no other holder. The lock file goes
/// last: a process that dies in here leaves a directory that can still be recognised as abandoned. A joiner that slips
/// in after that makes a lock file of its own, and rmdir fails: the directory is then its, and empty.
bool RemoveHeld(const std::string& path) {
  const int opened = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (opened < 0) return false;
  std::unique_ptr<DIR, int (*)(DIR*)> directory(fdopendir(opened), closedir);
  if (!directory) {
    close(opened);
    return false;
  }
  const int descriptor = dirfd(directory.get());
  for (const std::string& name : EntriesOf(directory.get())) unlinkat(descriptor, name.c_str(), 0);
  unlinkat(descriptor, kLockName, 0);
  return rmdir(path.c_str()) == 0;
}

/// Upgrades the lock and removes the directory if that made us the only holder.
///
/// flock(2) does not upgrade atomically: it drops our shared lock, then asks for the exclusive one, and if that is
/// refused the shared lock stays dropped. So of several leavers at the same time all but the last find another
/// holder and have left by having asked; the last finds none and removes. A joiner that gets its shared lock in
/// between makes the leaver fail, and will remove the directory itself when it leaves.
bool RemoveIfLast(const std::string& path, int lock) {
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) return false;
  return IsCurrentLock(path, lock) && RemoveHeld(path);
}

}  // namespace

SharedDirectory::SharedDirectory(std::string path) : path_(std::move(path)) {
  const double deadline = MonotonicMilliseconds() + kJoinMilliseconds;
  for (;;) {
    lock_ = TryJoin(path_);
    if (lock_) return;
    if (MonotonicMilliseconds() >= deadline) {
      throw Failure(code::kDeadline, "cannot join " + path_ + ": another process keeps its lock");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

SharedDirectory::~SharedDirectory() { Leave(); }

bool SharedDirectory::Leave() noexcept {
  if (!lock_) return false;
  const UniqueFd lock = std::move(lock_);
  return RemoveIfLast(path_, lock.get());
}

bool SharedDirectory::RemoveIfAbandoned(const std::string& path) {
  // What the name leads to is what any local user may have put there: a link to somebody's files, or a directory of theirs
  // with a link in it. Only a directory of this user is touched, and by its descriptor.
  const UniqueFd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!directory) {
    if (errno == ENOENT) return false;
    throw Failure::System(errno, "cannot open " + path);
  }
  struct stat found{};
  if (fstat(directory.get(), &found) != 0) throw Failure::System(errno, "cannot look at " + path);
  if (found.st_uid != geteuid()) {
    throw Failure("EACCES", "cannot remove " + path + ": it belongs to user " + std::to_string(found.st_uid));
  }
  const UniqueFd lock(openat(directory.get(), kLockName, O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (lock) return RemoveIfLast(path, lock.get());
  if (errno != ENOENT) throw Failure::System(errno, "cannot open " + path + "/" + kLockName);
  // Its maker died before it made the lock, or its remover after it unlinked the lock: empty in both cases, and
  // rmdir refuses anything else.
  return rmdir(path.c_str()) == 0;
}

}  // namespace weightcast
