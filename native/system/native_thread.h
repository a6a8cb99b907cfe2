#pragma once

#include <functional>
#include <thread>

namespace weightcast {

/// Starts a thread that takes no signals, so that they go to the threads that expect them and no system call here
/// is interrupted. `name` shows in top and gdb; at most 15 characters.
std::thread StartThread(const char* name, std::function<void()> body);

}  // namespace weightcast
