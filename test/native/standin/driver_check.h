// What the programs that check the driver's users share: the stand-in's own questions, its log, and saying what fails.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <vector>

#include "driver.h"

namespace fastswitch::check {

struct Standin {
  unsigned long (*violations)() = nullptr;
  unsigned long (*live)() = nullptr;
  void (*seed)(uint64_t) = nullptr;
  void (*failCalls)(const char*) = nullptr;
  size_t (*log)(char*, size_t) = nullptr;
};
inline Standin standin;
inline const cuda::Driver* driver = nullptr;
inline std::atomic<int> failures{0};

__attribute__((format(printf, 2, 3))) inline bool expect(bool condition, const char* format, ...) {
  if (condition) return true;
  failures++;
  va_list arguments;
  va_start(arguments, format);
  printf("FAILED: ");
  vprintf(format, arguments);
  printf("\n");
  va_end(arguments);
  return false;
}

inline void expectOk(Status status, const char* what) { expect(status == Status::ok, "%s: %s", what, status == Status::ok ? "" : lastMessage()); }

// Also finds the driver; false: there is no going on.
inline bool openStandin() {
  const char* why = nullptr;
  driver = cuda::findDriver(&why);
  if (driver == nullptr) return expect(false, "%s", why);
  void* library = dlopen(getenv("FASTSWITCH_LIBCUDA"), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return expect(false, "%s", dlerror());
  const auto find = [library](const char* name, auto* function) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    return expect(*function != nullptr, "no %s", name);
  };
  return find("standinViolations", &standin.violations) && find("standinLive", &standin.live) && find("standinSeed", &standin.seed) &&
         find("standinFail", &standin.failCalls) && find("standinLog", &standin.log);
}

inline std::string takeLog() {
  static std::vector<char> text((size_t{16} << 20) + 1);
  return std::string(text.data(), standin.log(text.data(), text.size()));
}

// Lines of the log that begin so.
inline std::vector<std::string> linesOf(const std::string& log, const std::string& beginning = "") {
  std::vector<std::string> lines;
  for (size_t at = 0; at < log.size();) {
    const size_t end = log.find('\n', at);
    if (log.compare(at, beginning.size(), beginning) == 0) lines.push_back(log.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

inline size_t countOf(const std::string& log, const char* beginning) { return linesOf(log, beginning).size(); }

// The last lines of a check: its answer for the shell.
inline int finish() {
  printf("%d failed\n", failures.load());
  return failures > 0 ? 1 : 0;
}

}  // namespace fastswitch::check
