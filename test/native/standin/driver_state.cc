// What runs when: the queue of each stream, and the generator that picks whose turn it is.
#include "driver_state.h"

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace standin {

thread_local int currentDevice = -1;
thread_local int captures = 0;

namespace {

constexpr unsigned long violationsShown = 20;
constexpr size_t recentBytes = size_t{16} << 20;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string formatted(const char* format, va_list arguments) {
  char text[1024];
  vsnprintf(text, sizeof text, format, arguments);
  return text;
}

const char* setting(const char* name) {
  const char* text = getenv(name);
  return text == nullptr || text[0] == '\0' ? nullptr : text;
}

// Now and then another thread goes first.
std::mutex& reached() {
  static thread_local uint32_t calls = 0;
  if (++calls % 7 == 0) std::this_thread::yield();
  return machine().mutex;
}

}  // namespace

Machine& machine() {
  static Machine* const instance = new Machine;
  return *instance;
}

Machine::Machine() {
  if (const char* text = setting("FASTSWITCH_STANDIN_SEED")) {
    random.seed(strtoull(text, nullptr, 10));
  } else {
    random.seed(1);
  }
  if (const char* text = setting("FASTSWITCH_STANDIN_LOG")) log = fopen(text, "a");
  if (const char* text = setting("FASTSWITCH_STANDIN_FAIL")) readFailures(text);
  if (const char* text = setting("FASTSWITCH_STANDIN_DEVICES")) devices = atoi(text);
  if (const char* text = setting("FASTSWITCH_STANDIN_MEMORY")) memoryBytes = strtoull(text, nullptr, 10);
  if (const char* text = setting("FASTSWITCH_STANDIN_DRIVER")) {
    char* end = nullptr;
    const long major = strtol(text, &end, 10);
    const long minor = *end == '.' ? strtol(end + 1, nullptr, 10) : 0;
    version = static_cast<int>(major * 1000 + minor * 10);
  }
}

// "cuMemAlloc_v2:3,cuEventRecord:*=719"
void Machine::readFailures(const char* text) {
  failures.clear();
  turns.clear();
  const std::string all = text;
  size_t at = 0;
  while (at < all.size()) {
    const size_t end = std::min(all.find(',', at), all.size());
    const std::string one = all.substr(at, end - at);
    at = end + 1;
    const size_t colon = one.find(':');
    Failure failure;
    failure.call = one.substr(0, colon);
    if (colon == std::string::npos) {
      failure.turn = 1;
    } else {
      failure.turn = one[colon + 1] == '*' ? 0 : strtoul(one.c_str() + colon + 1, nullptr, 10);
      const size_t equals = one.find('=', colon);
      if (equals != std::string::npos) failure.result = atoi(one.c_str() + equals + 1);
    }
    failures.push_back(failure);
  }
}

void Machine::write(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string line = formatted(format, arguments) + "\n";
  va_end(arguments);
  if (recent.size() + line.size() <= recentBytes) recent += line;
  if (log == nullptr) return;
  fputs(line.c_str(), log);
  fflush(log);
}

void Machine::violation(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string text = formatted(format, arguments);
  va_end(arguments);
  violations++;
  if (violations <= violationsShown) fprintf(stderr, "stand-in of the driver: %s\n", text.c_str());
  write("violation: %s", text.c_str());
}

void Machine::enqueue(StreamState& stream, Operation operation) {
  if (stream.capture != nullptr) {
    stream.capture->nodes.push_back({std::move(operation.parts), stream.tail});
    stream.tail = {stream.capture->nodes.size() - 1};
    return;
  }
  if (operation.marks != nullptr) operation.marks->stream = &stream;
  stream.queue.push_back(std::move(operation));
  if (pick(64) == 0) stream.mood = static_cast<Mood>(pick(3));
  wander();
}

bool Machine::advance(StreamState& stream) {
  if (stream.queue.empty()) return false;
  Operation& operation = stream.queue.front();
  if (operation.waits != nullptr && !operation.waits->done) return false;
  if (operation.next < operation.parts.size()) operation.parts[operation.next++]();
  if (operation.next < operation.parts.size()) return true;
  if (operation.marks != nullptr) {
    operation.marks->done = true;
    operation.marks->seconds = now();
  }
  stream.queue.pop_front();
  return true;
}

void Machine::wander() {
  if (streams.empty()) return;
  for (uint64_t turn = pick(6); turn > 0; turn--) {
    StreamState& stream = *streams[pick(streams.size())];
    if (stream.mood == Mood::fickle) advance(stream);
  }
  bool moved = true;
  while (moved) {
    moved = false;
    for (const auto& stream : streams) {
      if (stream->mood == Mood::eager && advance(*stream)) moved = true;
    }
  }
}

void Machine::force(const std::shared_ptr<Marker>& marker) {
  while (!marker->done) {
    if (pick(4) == 0) wander();
    if (marker->done || advance(*marker->stream)) continue;
    // Markers are waited for only after they were put on their stream: this ends.
    const std::shared_ptr<Marker> before = marker->stream->queue.front().waits;
    force(before);
  }
}

const Allocation* Machine::find(uintptr_t address, size_t bytes, Kind kind) const {
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin()) return nullptr;
  const Allocation& found = (--after)->second;
  if (found.kind != kind || address - found.start > found.bytes || bytes > found.bytes - (address - found.start)) return nullptr;
  return &found;
}

Call::Call(const char* called, unsigned needs) : name(called), lock_(reached()) {
  inject();
  if (!ready()) return;
  if ((needs & needsInit) != 0 && !machine().initialised) {
    refuse(notInitialized, "before cuInit");
  } else if ((needs & needsContext) == needsContext && currentDevice < 0) {
    refuse(invalidContext, "no context is current on this thread");
  } else if ((needs & notInCapture) != 0 && captures > 0) {
    refuse(captureUnsupported, "not allowed while this thread captures");
  }
}

void Call::inject() {
  Machine& all = machine();
  if (all.failures.empty()) return;
  const unsigned long turn = ++all.turns[name];
  for (const Failure& failure : all.failures) {
    if (failure.call != name || (failure.turn != 0 && failure.turn != turn)) continue;
    const bool memory = failure.call == "cuMemAlloc_v2" || failure.call == "cuMemHostAlloc";
    result = failure.result >= 0 ? failure.result : memory ? outOfMemory : unknownError;
    all.write("%s failed as asked with %d", name, result);
  }
}

bool Call::refuse(int with, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string text = formatted(format, arguments);
  va_end(arguments);
  result = with;
  machine().violation("%s: %s", name, text.c_str());
  return false;
}

void Call::log(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string text = formatted(format, arguments);
  va_end(arguments);
  machine().write("%s %s", name, text.c_str());
}

void Call::log() { machine().write("%s", name); }

bool Call::stream(Stream handle, StreamState** found) {
  for (const auto& one : machine().streams) {
    if (reinterpret_cast<Stream>(one.get()) != handle) continue;
    if (!one->alive) return refuse(invalidHandle, "stream %d was destroyed", one->number);
    if (one->device != currentDevice) return refuse(invalidContext, "stream %d is of device %d, not %d", one->number, one->device, currentDevice);
    *found = one.get();
    return true;
  }
  return refuse(invalidHandle, handle == nullptr ? "the null stream waits for everything, and is not used here" : "no such stream");
}

bool Call::event(Event handle, EventState** found) {
  for (const auto& one : machine().events) {
    if (reinterpret_cast<Event>(one.get()) != handle) continue;
    if (!one->alive) return refuse(invalidHandle, "event %d was destroyed", one->number);
    if (one->device != currentDevice) return refuse(invalidContext, "event %d is of device %d, not %d", one->number, one->device, currentDevice);
    *found = one.get();
    return true;
  }
  return refuse(invalidHandle, "no such event");
}

}  // namespace standin

void standinEnqueue(fastswitch::cuda::Stream stream, std::function<void()> work, const char* label) {
  standin::Call call("work", standin::needsContext);
  standin::StreamState* target = nullptr;
  if (!call.ready() || !call.stream(stream, &target)) return;
  call.log("stream %d %s", target->number, label);
  standin::Operation operation;
  operation.parts.push_back(std::move(work));
  standin::machine().enqueue(*target, std::move(operation));
}

unsigned long standinViolations() {
  const std::lock_guard<std::mutex> lock(standin::machine().mutex);
  return standin::machine().violations;
}

unsigned long standinLive() {
  standin::Machine& all = standin::machine();
  const std::lock_guard<std::mutex> lock(all.mutex);
  unsigned long count = all.allocations.size();
  for (const auto& one : all.streams) count += one->alive;
  for (const auto& one : all.events) count += one->alive;
  for (const auto& one : all.graphs) count += one->alive;
  for (const auto& one : all.execs) count += one->alive;
  return count;
}

void standinSeed(uint64_t seed) {
  const std::lock_guard<std::mutex> lock(standin::machine().mutex);
  standin::machine().random.seed(seed);
}

void standinFail(const char* calls) {
  const std::lock_guard<std::mutex> lock(standin::machine().mutex);
  standin::machine().readFailures(calls);
}

size_t standinLog(char* text, size_t bytes) {
  std::string& recent = standin::machine().recent;
  const std::lock_guard<std::mutex> lock(standin::machine().mutex);
  const size_t length = bytes == 0 ? 0 : std::min(recent.size(), bytes - 1);
  memcpy(text, recent.data(), length);
  if (bytes > 0) text[length] = '\0';
  recent.clear();
  return length;
}
