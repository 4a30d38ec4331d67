#include "threads.h"

#ifdef __linux__
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef FASTSWITCH_X86_64
#include <immintrin.h>
#endif

namespace fastswitch {

namespace {

// Long enough to bridge the short serial parts of a step, short enough not to burn a core that another process wants.
constexpr int spins = 2000;

void pause() {
#ifdef FASTSWITCH_X86_64
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// The event loop goes first: a compute thread that steals its core for a time slice delays every stream. Nicer than the
// process by 10, whatever the process was started with.
void yieldToOthers() {
#ifdef __linux__
  const auto thread = static_cast<id_t>(syscall(SYS_gettid));
  setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + 10);
#endif
}

uint32_t left(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

}  // namespace

Status ThreadPool::create(int threads, std::unique_ptr<ThreadPool>* pool) {
  std::unique_ptr<ThreadPool> made(new ThreadPool);
  for (int index = 1; index < threads; index++) {
    auto worker = std::make_unique<Worker>(Worker{made.get(), index, {}});
    if (pthread_create(&worker->thread, nullptr, start, worker.get()) != 0) {
      return fail(Status::system, "cannot start compute thread %d of %d", index, threads);
    }
    made->workers_.push_back(std::move(worker));
  }
  *pool = std::move(made);
  return Status::ok;
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (const auto& worker : workers_) pthread_join(worker->thread, nullptr);
}

void* ThreadPool::start(void* argument) {
  const auto* worker = static_cast<Worker*>(argument);
  yieldToOthers();
  worker->pool->loop(worker->index);
  return nullptr;
}

void ThreadPool::run(uint32_t items, Task task, void* context) {
  if (items == 0) return;
  if (items == 1 || workers_.empty()) {
    for (uint32_t i = 0; i < items; i++) task(context, i, 0);
    return;
  }
  task_.store(task, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  items_.store(items, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(job << 32 | items);
  if (sleepers_.load() > 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  while (takeOne(0)) {
  }
  for (int spin = 0; spin < spins; spin++) {
    if (done_.load(std::memory_order_acquire) == items) return;
    pause();
  }
  // The thread that holds the last item was itself put aside: give it this core.
  std::unique_lock<std::mutex> lock(mutex_);
  callerWaits_.store(true);
  finished_.wait(lock, [&] { return done_.load() == items; });
  callerWaits_.store(false);
}

bool ThreadPool::takeOne(int thread) {
  uint64_t ticket = ticket_.load();
  while (left(ticket) > 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1)) continue;
    // This item is not done, so the job is still the one whose ticket was taken and its fields stand.
    const uint32_t items = items_.load(std::memory_order_relaxed);
    task_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), items - left(ticket), thread);
    if (done_.fetch_add(1) + 1 == items && callerWaits_.load()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      finished_.notify_one();
    }
    return true;
  }
  return false;
}

void ThreadPool::loop(int thread) {
  int idle = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    if (takeOne(thread)) {
      idle = 0;
    } else if (++idle < spins) {
      pause();
    } else {
      sleep();
      idle = 0;
    }
  }
}

void ThreadPool::sleep() {
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1);
  wake_.wait(lock, [&] { return left(ticket_.load()) > 0 || stop_.load(); });
  sleepers_.fetch_sub(1);
}

}  // namespace fastswitch
