// The store of a GPU: device memory, pinned host memory, and copies between them that run beside the steps.
//
// Who waits for whom. A transfer is one call of copy(); a step is one call of the engine, on its compute stream.
//
//   engine's thread                                  swap threads (any number, a copy stream each)
//   stepWaits(compute)   compute waits for what
//                        has landed
//   ... launches ...                                 [after announceStep: copies are held back, 2 ms at most]
//   stepIssued(compute)  marks the end of the step   copy(): the stream waits for the last *returned* step,
//   ... waits for the results ...                            copies go in chunks, then the host waits for the last
//   stepReturned()       the step counts as returned         landed: the next step will wait for it
//
// A transfer never waits for the step in flight: it touches no block of it (the scheduler moves only blocks that no step
// in flight and no other transfer uses), and swapping beside a running step is what all this is for. What it does depend
// on lies behind it: blocks to be saved were written, and blocks to be filled were last read, by steps that have returned
// or by transfers that have landed. Likewise a step depends only on transfers that have landed. So each wait is for
// something that the host already knows to be complete, and costs nothing; it is there so that the order holds on the
// device itself, whatever the host's threads do.
//
// One engine steps over a store at a time. The memories are not cleared.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "../kvstore.h"
#include "device.h"

namespace fastswitch::cuda {

class CudaStore : public KvStore {
 public:
  ~CudaStore() override;
  Status reserve(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, const StoreOptions& options);

  // Copies within the device run in the order of the list, and a piece may overlap its own target, as on the CPU; but it
  // is badRun when it moves by less than 1 / 4096 of its length. Between the memories, the targets of a list must not
  // overlap each other: in a batch no order holds.
  Status copy(Direction direction, const std::vector<Piece>& pieces) override;
  Status read(Memory memory, size_t offset, uint8_t* target, size_t bytes) override;
  Status write(Memory memory, size_t offset, const uint8_t* source, size_t bytes) override;
  void announceStep() override;

  Gpu& gpu() const { return *gpu_; }
  Address deviceAddress() const { return deviceMemory_.address(); }

  // Before the first launch of a step: `compute` waits for every transfer that has landed.
  Status stepWaits(Stream compute);
  // Right after the last launch: marks the end of the step and lets copies go again. A step that fails before this calls
  // neither this nor stepReturned, once nothing of it runs any more.
  Status stepIssued(Stream compute);
  // When the host knows that the step is complete.
  void stepReturned();

 private:
  // One copy stream in use by one transfer at a time. Three events: of the last transfer that landed, which a step may
  // be about to wait for, and of two chunks in flight.
  struct Line {
    Stream stream = nullptr;
    Event events[3] = {};
    int landed = -1;       // index of the event of the last transfer that landed
    uint64_t landing = 0;  // its number among the store's landings
    bool adrift = false;   // what is under way on it could not be waited for
  };
  class Use;  // a line for the length of one transfer

  Status reserveDevice();
  Status openLine(std::unique_ptr<Line>* line);
  void closeLine(Line& line);
  Status transfer(Use& use, Direction direction, const std::vector<Piece>& pieces);
  Status followSteps(Line& line);
  void holdBack();
  Status issue(Line& line, Direction direction, const Piece* pieces, size_t count);
  int issueBatch(Line& line, Address* to, Address* from, size_t* bytes, size_t count);
  Status issueOne(Line& line, Direction direction, Address to, Address from, size_t bytes);
  Status finishChunk(Line& line, int event, int before);
  Status abandon(Use& use, Status cause);
  bool drained(Line& line);
  void land(Line& line, int event);
  Status moveStaged(Direction direction, size_t offset, uint8_t* target, const uint8_t* source, size_t bytes);

  Gpu* gpu_ = nullptr;
  std::atomic<bool> batch_{false};  // until a driver that has it refuses such a call
  DeviceMemory deviceMemory_;
  PinnedMemory hostMemory_;

  std::mutex mutex_;                            // guards what follows
  std::vector<std::unique_ptr<Line>> lines_;    // all of them
  std::vector<Line*> idle_[2];                  // from the device, to the device
  uint64_t landings_ = 0, landingsSeen_ = 0;    // the second: up to which `seenBy_` has been told to wait
  Stream seenBy_ = nullptr;
  Event stepEvents_[2] = {};
  int stepReturned_ = -1, stepIssued_ = -1;     // indexes of step events; -1: none
  std::condition_variable issued_;
  bool announced_ = false;
  std::chrono::steady_clock::time_point announcedUntil_;
};

Status createCudaStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, const StoreOptions& options, std::shared_ptr<KvStore>* store);

}  // namespace fastswitch::cuda
