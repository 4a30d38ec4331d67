// Runs the blocks of a grid: fibers, who waits for whom, and which of them goes on.
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../../src/native/cuda/simt.h"
#include "simt_host.h"
#include "simt_mma.h"

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace fastswitch::standin {

__thread Place* place = nullptr;

namespace {

constexpr size_t stackBytes = 64 * 1024;
constexpr size_t pageBytes = 4096;
constexpr unsigned threadsMax = 1024;
constexpr size_t sharedMax = 227 * 1024;

// ---- fibers --------------------------------------------------------------------------------------------------------

[[noreturn]] void fiberMain();

#ifdef __x86_64__

extern "C" void fastswitchStandinSwitch(void** from, void* to);
asm(R"(
.text
.p2align 4
.hidden fastswitchStandinSwitch
.globl fastswitchStandinSwitch
.type fastswitchStandinSwitch, @function
fastswitchStandinSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastswitchStandinSwitch, .-fastswitchStandinSwitch
)");

struct Fiber {
  void* at = nullptr;

  // Prepares to run fiberMain on this stack: six registers, the place to return to, and an empty frame above.
  void begin(uint8_t* stack) {
    auto** top = reinterpret_cast<void**>(stack + stackBytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiberMain);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    at = top;
  }
  static void change(Fiber& from, Fiber& to) { fastswitchStandinSwitch(&from.at, to.at); }
};

#else

struct Fiber {
  ucontext_t at;

  void begin(uint8_t* stack) {
    getcontext(&at);
    at.uc_stack.ss_sp = stack;
    at.uc_stack.ss_size = stackBytes;
    at.uc_link = nullptr;
    makecontext(&at, reinterpret_cast<void (*)()>(&fiberMain), 0);
  }
  static void change(Fiber& from, Fiber& to) { swapcontext(&from.at, &to.at); }
};

#endif

uint8_t* map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) refuse("no memory for the stacks of the stand-in");
  return static_cast<uint8_t*>(memory);
}

struct Copy {
  void* to;
  const void* from;
  bool present;
};

// What one thread of the processor needs to run blocks. Blocks of different grids may run beside each other.
class Runner {
 public:
  Runner();
  ~Runner();
  void run(const char* name, void (*body)(const void*), const void* params, const unsigned grid[3], unsigned block, size_t sharedBytes);

  bool meet(Meeting meeting, int line);
  void fiber();
  std::vector<Copy>& openCopies() { return copies_[static_cast<size_t>(place_.thread)]; }
  std::vector<size_t>& copyGroups() { return groups_[static_cast<size_t>(place_.thread)]; }
  int poison() const { return poison_; }
  const char* name() const { return name_; }
  Place& here() { return place_; }

 private:
  void runBlock();
  void go(int thread);
  void goOn();
  bool goInWarp(int from);
  void open();
  void diverge(const Warp& warp, Meeting meeting, int line);
  uint32_t random();

  Place place_{};
  const char* name_ = nullptr;
  void (*body_)(const void*) = nullptr;
  const void* params_ = nullptr;
  int threads_ = 0;
  int warps_ = 0;
  int live_ = 0;       // threads that have not ended
  int waiting_ = 0;    // threads at syncBlock
  bool backwards_ = false;
  int poison_ = 0xff;  // NaN as bf16 and float, -1 as a number; with odd seeds large numbers
  uint32_t random_ = 1;
  uint8_t* stacks_ = nullptr;
  uint8_t* sharedArea_ = nullptr;
  Fiber main_;
  Fiber fibers_[threadsMax];
  Warp warpStates_[threadsMax / 32];
  std::vector<Copy> copies_[threadsMax];
  std::vector<size_t> groups_[threadsMax];
};

__thread Runner* runner = nullptr;

[[noreturn]] void fiberMain() {
  runner->fiber();
  abort();
}

unsigned seed() {
  const char* text = getenv("FASTSWITCH_STANDIN_SEED");
  return text == nullptr ? 0 : static_cast<unsigned>(strtoul(text, nullptr, 10));
}

Runner::Runner() {
  const unsigned number = seed();
  backwards_ = (number & 1) != 0;
  poison_ = (number & 1) != 0 ? 0x7e : 0xff;
  random_ = number * 2654435761u + 0x9e3779b9u;
  // A page that nobody may touch below each stack and after the shared memory.
  const size_t step = stackBytes + pageBytes;
  stacks_ = map(step * threadsMax);
  for (unsigned i = 0; i < threadsMax; i++) mprotect(stacks_ + i * step, pageBytes, PROT_NONE);
  sharedArea_ = map(sharedMax / pageBytes * pageBytes + 2 * pageBytes);
  mprotect(sharedArea_ + sharedMax / pageBytes * pageBytes + pageBytes, pageBytes, PROT_NONE);
}

Runner::~Runner() {
  munmap(stacks_, (stackBytes + pageBytes) * threadsMax);
  munmap(sharedArea_, sharedMax / pageBytes * pageBytes + 2 * pageBytes);
}

uint32_t Runner::random() {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 17;
  random_ ^= random_ << 5;
  return random_;
}

// ---- a block -------------------------------------------------------------------------------------------------------

void Runner::run(const char* name, void (*body)(const void*), const void* params, const unsigned grid[3], unsigned block, size_t sharedBytes) {
  name_ = name;
  body_ = body;
  params_ = params;
  threads_ = static_cast<int>(block);
  warps_ = threads_ / 32;
  // The shared memory ends where the forbidden page begins.
  const size_t size = (sharedBytes + 15) / 16 * 16;
  place_.shared = sharedArea_ + sharedMax / pageBytes * pageBytes + pageBytes - size;
  place_.sharedBytes = size;
  for (int i = 0; i < 3; i++) place_.grid[i] = static_cast<int>(grid[i]);
  for (unsigned z = 0; z < grid[2]; z++) {
    for (unsigned y = 0; y < grid[1]; y++) {
      for (unsigned x = 0; x < grid[0]; x++) {
        place_.block[0] = static_cast<int>(x);
        place_.block[1] = static_cast<int>(y);
        place_.block[2] = static_cast<int>(z);
        runBlock();
      }
    }
  }
}

void Runner::runBlock() {
  memset(place_.shared, poison_, place_.sharedBytes);
  for (int i = 0; i < threads_; i++) {
    fibers_[i].begin(stacks_ + static_cast<size_t>(i) * (stackBytes + pageBytes) + pageBytes);
    copies_[i].clear();
    groups_[i].clear();
  }
  for (int i = 0; i < warps_; i++) {
    Warp& warp = warpStates_[i];
    warp.live = 0xffffffffu;
    warp.arrived = 0;
    warp.parity = 0;
    warp.ballots[0] = warp.ballots[1] = 0;
  }
  live_ = threads_;
  waiting_ = 0;
  place_.thread = static_cast<int>(random() % static_cast<unsigned>(threads_));
  place_.warp = &warpStates_[place_.thread / 32];
  Fiber::change(main_, fibers_[place_.thread]);
}

void Runner::fiber() {
  body_(params_);
  Warp& warp = *place_.warp;
  if (warp.arrived != 0 && warp.meeting != Meeting::syncBlock) {
    refuse("a thread ended at which others of its warp wait, from line %d on", warp.line);
  }
  warp.live &= ~(1u << (place_.thread & 31));
  live_--;
  if (live_ > 0 && waiting_ == live_) open();
  goOn();
}

// Runs another thread instead of this one, until somebody runs this one again.
void Runner::go(int thread) {
  const int from = place_.thread;
  place_.thread = thread;
  place_.warp = &warpStates_[thread / 32];
  Fiber::change(fibers_[from], fibers_[thread]);
}

// The next lane of this warp that need not wait.
bool Runner::goInWarp(int warp) {
  const uint32_t ready = warpStates_[warp].live & ~warpStates_[warp].arrived;
  if (ready == 0) return false;
  const int at = place_.thread & 31;
  int lane = 0;
  if (backwards_) {
    const uint32_t turned = at == 0 ? ready : ready << (32 - at) | ready >> at;
    lane = (31 - __builtin_clz(turned) + at) & 31;
  } else {
    const int first = (at + 1) & 31;
    const uint32_t turned = first == 0 ? ready : ready >> first | ready << (32 - first);
    lane = (__builtin_ctz(turned) + first) & 31;
  }
  go(warp * 32 + lane);
  return true;
}

void Runner::goOn() {
  const int own = place_.thread / 32;
  for (int i = 0; i < warps_; i++) {
    const int warp = (own + (backwards_ ? warps_ - i : i)) % warps_;
    if (goInWarp(warp)) return;
  }
  if (live_ > 0) refuse("no thread can go on");
  Fiber::change(fibers_[place_.thread], main_);
}

// All are at syncBlock: everybody may go on.
void Runner::open() {
  waiting_ = 0;
  for (int i = 0; i < warps_; i++) {
    Warp& warp = warpStates_[i];
    warp.arrived = 0;
    warp.parity ^= 1;
    warp.ballots[warp.parity] = 0;
  }
}

const char* nameOf(Meeting meeting) {
  static const char* const names[] = {"syncBlock", "syncWarp", "shuffle", "shuffleXor", "ballot", "mma", "loadMatrices"};
  return names[static_cast<int>(meeting)];
}

void Runner::diverge(const Warp& warp, Meeting meeting, int line) {
  refuse("one lane is at %s of line %d, another of its warp at %s of line %d", nameOf(meeting), line, nameOf(warp.meeting), warp.line);
}

bool Runner::meet(Meeting meeting, int line) {
  Warp& warp = *place_.warp;
  if (warp.arrived == 0) {
    warp.meeting = meeting;
    warp.line = line;
  } else if (warp.meeting != meeting || warp.line != line) {
    diverge(warp, meeting, line);
  }
  const uint32_t self = 1u << (place_.thread & 31);
  warp.arrived |= self;
  if (meeting == Meeting::syncBlock) {
    if (++waiting_ < live_) {
      goOn();
      return false;
    }
    for (int i = 0; i < warps_; i++) {
      const Warp& other = warpStates_[i];
      if (other.live != 0 && other.line != line) diverge(other, meeting, line);
    }
    open();
    // Someone by chance, so that each warp is the first now and then.
    const int first = static_cast<int>(random() % static_cast<unsigned>(warps_));
    if (first != place_.thread / 32) goInWarp(first);
    return true;
  }
  if (warp.live != 0xffffffffu) refuse("%s of line %d, but some lanes of the warp have ended", nameOf(meeting), line);
  if (warp.arrived != 0xffffffffu) {
    goOn();
    return false;
  }
  warp.arrived = 0;
  warp.parity ^= 1;
  warp.ballots[warp.parity] = 0;
  return true;
}

// ---- the registry --------------------------------------------------------------------------------------------------

KernelEntry* entries = nullptr;

}  // namespace

KernelEntry::KernelEntry(const char* name, size_t paramBytes, void (*run)(const void*, unsigned*, unsigned, unsigned))
    : kernel{name, paramBytes, run}, next(entries) {
  entries = this;
}

bool meet(Meeting meeting, int line) { return runner->meet(meeting, line); }

void refuse(const char* format, ...) {
  fflush(stdout);
  va_list list;
  va_start(list, format);
  if (runner != nullptr && runner->name() != nullptr) {
    const Place& at = runner->here();
    fprintf(stderr, "stand-in: kernel %s, block (%d, %d, %d), thread %d: ", runner->name(), at.block[0], at.block[1], at.block[2], at.thread);
  }
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
  abort();
}

void runGrid(const char* name, unsigned threads, void (*body)(const void*), const void* params, const unsigned grid[3], unsigned block,
             unsigned sharedBytes) {
  struct Owner {
    Runner* owned = nullptr;
    ~Owner() { delete owned; }
  };
  static thread_local Owner owner;
  if (owner.owned == nullptr) owner.owned = new Runner();
  runner = owner.owned;
  place = &runner->here();
  if (block != threads) refuse("kernel %s is for blocks of %u threads, not of %u", name, threads, block);
  if (block == 0 || block % 32 != 0 || block > threadsMax) refuse("kernel %s has blocks of %u threads", name, block);
  if (sharedBytes > sharedMax) refuse("kernel %s is given %u bytes of shared memory", name, sharedBytes);
  if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) {
    refuse("kernel %s is given a grid of %u x %u x %u", name, grid[0], grid[1], grid[2]);
  }
  runner->run(name, body, params, grid, block, sharedBytes);
}

// ---- what threads do together --------------------------------------------------------------------------------------

// A copy may land at any moment until somebody waits for it: what is there is gone at once, what comes is there at the
// last moment.
void startCopy(void* shared, const void* global, bool present) {
  checkAligned(shared, "copyAsync16");
  checkAligned(global, "copyAsync16");
  checkShared(shared, 16, "copyAsync16");
  memset(shared, runner->poison(), 16);
  runner->openCopies().push_back({shared, global, present});
}

void closeCopies() { runner->copyGroups().push_back(runner->openCopies().size()); }

void finishCopies(int groupsLeft) {
  std::vector<Copy>& copies = runner->openCopies();
  std::vector<size_t>& groups = runner->copyGroups();
  if (groups.size() <= static_cast<size_t>(groupsLeft)) return;
  const size_t done = groups.size() - static_cast<size_t>(groupsLeft);
  const size_t count = groups[done - 1];
  for (size_t i = 0; i < count; i++) {
    if (copies[i].present) {
      memcpy(copies[i].to, copies[i].from, 16);
    } else {
      memset(copies[i].to, 0, 16);
    }
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(count));
  groups.erase(groups.begin(), groups.begin() + static_cast<ptrdiff_t>(done));
  for (size_t& end : groups) end -= count;
}

}  // namespace fastswitch::standin

const HostKernel* findHostKernel(const char* name) {
  for (const auto* entry = fastswitch::standin::entries; entry != nullptr; entry = entry->next) {
    if (strcmp(entry->kernel.name, name) == 0) return &entry->kernel;
  }
  return nullptr;
}
