// Steps captured once a shape and launched as one: a decode step is hundreds of short launches.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "inputs.h"

namespace fastswitch::cuda {

class Graphs {
 public:
  explicit Graphs(bool wanted) : wanted_(wanted) {}
  ~Graphs() { clear(); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  void start(Gpu& gpu) { gpu_ = &gpu; }
  bool wanted() const { return wanted_; }
  // Why captures were given up, once one failed; empty before.
  const std::string& problem() const { return problem_; }

  // The graph of what `issue` launches on `stream` for this shape and arena. Null where it is to be launched plainly: when
  // the shape is seen for the first time (so that all its kernels are loaded before they are captured), or when captures
  // do not work here.
  GraphExec find(const StepShape& shape, Address arena, Stream stream, const std::function<Status()>& issue);

  // Drops all graphs: an address in them is no longer good. None of them runs.
  void clear();

 private:
  struct Key {
    StepShape shape;
    Address arena;
    bool operator<(const Key& other) const { return arena != other.arena ? arena < other.arena : shape < other.shape; }
  };
  struct Entry {
    GraphExec graph = nullptr;
    uint64_t used = 0;
  };
  Status capture(Stream stream, const std::function<Status()>& issue, GraphExec* graph);
  void makeRoom();

  Gpu* gpu_ = nullptr;
  bool wanted_;
  std::string problem_;
  std::map<Key, Entry> entries_;
  uint64_t uses_ = 0;
};

// Shapes of decode steps are rounded up to few sizes: 1, 2, 4, 8, 12, 16, 24, 32, 48, ...
int roundedSize(int size);

}  // namespace fastswitch::cuda
