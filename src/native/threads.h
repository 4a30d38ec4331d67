// The compute threads of one engine. A job is a number of items; threads take them one by one from a shared counter,
// so that a thread delayed by other work simply takes fewer. The caller is one of the threads.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "status.h"

namespace fastswitch {

class ThreadPool {
 public:
  // Runs one item; `thread` counts from 0, the caller.
  using Task = void (*)(void* context, uint32_t item, int thread);

  // `threads` includes the calling one.
  static Status create(int threads, std::unique_ptr<ThreadPool>* pool);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Runs task(context, i, thread) for each i in [0, items), in any order, and returns when all are done. One caller
  // at a time.
  void run(uint32_t items, Task task, void* context);

  template <class Body>
  void each(uint32_t items, Body& body) {
    run(items, [](void* context, uint32_t item, int thread) { (*static_cast<Body*>(context))(item, thread); }, &body);
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

 private:
  struct Worker {
    ThreadPool* pool;
    int index;
    pthread_t thread;
  };

  ThreadPool() = default;
  static void* start(void* worker);
  void loop(int thread);
  bool takeOne(int thread);
  void sleep();

  // Job number in the upper half, items not yet taken in the lower: one compare-and-swap takes an item of exactly
  // the job that was looked at.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<Task> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<uint32_t> items_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> callerWaits_{false};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace fastswitch
