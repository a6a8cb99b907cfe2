#include "system/failure.h"

#include <system_error>
#include <utility>

namespace weightcast {

Failure::Failure(std::string code, const std::string& message)
    : std::runtime_error(message), code_(std::move(code)) {}

Failure Failure::System(int error_number, const std::string& attempt) {
  // Not strerror(3), which need not be safe among threads.
  Failure failure("", attempt + ": " + std::generic_category().message(error_number));
  failure.error_number_ = error_number;
  return failure;
}

}  // namespace weightcast
