#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace fastswitch {

namespace {
thread_local char message[512] = "";
}

Status fail(Status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}

const char* lastMessage() { return message; }

}  // namespace fastswitch
