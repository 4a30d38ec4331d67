// The inside of the stand-in: what exists, and what waits to run. One lock guards all of it, and is held while work runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "driver.h"
#include "simt.h"

namespace standin {

using fastswitch::cuda::Address;
using fastswitch::cuda::Context;
using fastswitch::cuda::Device;
using fastswitch::cuda::Event;
using fastswitch::cuda::Function;
using fastswitch::cuda::Graph;
using fastswitch::cuda::GraphExec;
using fastswitch::cuda::MemcpyAttributes;
using fastswitch::cuda::Module;
using fastswitch::cuda::Stream;

enum : int {
  success = 0,
  invalidValue = 1,
  outOfMemory = 2,
  notInitialized = 3,
  noDevice = 100,
  invalidDevice = 101,
  invalidContext = 201,
  noBinary = 209,
  invalidHandle = 400,
  notFound = 500,
  notReady = 600,
  captureUnsupported = 900,
  captureUnjoined = 904,
  captureIsolation = 905,
  unknownError = 999,
};

using Part = std::function<void()>;

struct StreamState;

// A place in a stream that events point to.
struct Marker {
  StreamState* stream = nullptr;
  bool done = false;
  double seconds = 0;  // when it was reached
};

struct Operation {
  std::shared_ptr<Marker> waits;  // not before this
  std::vector<Part> parts;        // run in order, with work of other streams in between
  size_t next = 0;
  std::shared_ptr<Marker> marks;  // reached with this
};

struct GraphState {
  struct Node {
    std::vector<Part> parts;
    std::vector<size_t> after;
  };
  bool alive = true;
  std::vector<Node> nodes;
};

struct GraphExecState {
  bool alive = true;
  int device = 0;
  std::vector<GraphState::Node> nodes;
  std::shared_ptr<Marker> last;  // the end of its last launch, which the next one follows
};

// How willing a stream is to run before somebody waits for it.
enum class Mood { lazy, fickle, eager };

struct StreamState {
  int number = 0;
  int device = 0;
  bool alive = true;
  Mood mood = Mood::lazy;
  std::deque<Operation> queue;
  GraphState* capture = nullptr;
  bool origin = false;         // its capture began here
  std::thread::id capturer;
  std::vector<size_t> tail;    // nodes that its next captured operation follows
};

struct EventState {
  int number = 0;
  int device = 0;
  bool alive = true;
  bool timing = false;
  std::shared_ptr<Marker> marker;  // null: never recorded
  GraphState* capture = nullptr;   // recorded while capturing: stands for these nodes
  std::vector<size_t> nodes;
};

struct KernelState {
  const HostKernel* kernel = nullptr;
  unsigned sharedBytes = 48 * 1024;
};

enum class Kind { device, pinned };

struct Allocation {
  uintptr_t start = 0;
  size_t bytes = 0;
  Kind kind = Kind::device;
  int device = 0;
};

struct Failure {
  std::string call;
  unsigned long turn = 0;  // 0: always
  int result = -1;         // -1: what suits the call
};

struct Machine {
  std::mutex mutex;
  bool initialised = false;
  int devices = 1;
  int version = 13000;
  size_t memoryBytes = size_t{1} << 30;
  std::mt19937_64 random;
  FILE* log = nullptr;
  std::string recent;  // of the log, for standinLog
  std::map<int, int> retained;  // contexts, by device
  std::vector<Failure> failures;
  std::map<std::string, unsigned long> turns;
  unsigned long violations = 0;
  std::map<uintptr_t, Allocation> allocations;  // live ones by their start
  // Handles live as long as the process, so that the use of a destroyed one is noticed.
  std::vector<std::unique_ptr<StreamState>> streams;
  std::vector<std::unique_ptr<EventState>> events;
  std::vector<std::unique_ptr<GraphState>> graphs;
  std::vector<std::unique_ptr<GraphExecState>> execs;
  std::vector<std::unique_ptr<KernelState>> kernels;

  Machine();
  void readFailures(const char* text);
  uint64_t pick(uint64_t count) { return random() % count; }
  void write(const char* format, ...) __attribute__((format(printf, 2, 3)));
  void violation(const char* format, ...) __attribute__((format(printf, 2, 3)));

  // Puts an operation on a stream, or into the graph that the stream captures; other work may run on this occasion.
  void enqueue(StreamState& stream, Operation operation);
  // Runs what is needed for the marker to be reached, and maybe more.
  void force(const std::shared_ptr<Marker>& marker);
  // Runs some work that is free to run.
  void wander();
  // One part of the next operation; false: none, or it waits.
  bool advance(StreamState& stream);

  // The live allocation of this kind that holds all these bytes; null: none.
  const Allocation* find(uintptr_t address, size_t bytes, Kind kind) const;
};

// Never destroyed.
Machine& machine();

// The device whose context is current on this thread; -1: none.
extern thread_local int currentDevice;
// How many captures this thread has begun and not ended.
extern thread_local int captures;

enum Needs : unsigned { needsNothing = 0, needsInit = 1, needsContext = 3, notInCapture = 4 };

// One call of the library: holds the lock, counts, and answers the injected failure or the refusal of a misuse.
class Call {
 public:
  Call(const char* name, unsigned needs);
  bool ready() const { return result == success; }
  // Keeps the answer, which is not success, and says why; false, so that conditions can end with it.
  bool refuse(int with, const char* format, ...) __attribute__((format(printf, 3, 4)));
  // A line of the log: the call's name and what is said here.
  void log(const char* format, ...) __attribute__((format(printf, 2, 3)));
  void log();

  bool stream(Stream handle, StreamState** found);
  bool event(Event handle, EventState** found);

  const char* name;
  int result = success;

 private:
  void inject();
  std::unique_lock<std::mutex> lock_;
};

}  // namespace standin
