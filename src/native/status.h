// What a native call answers. Nothing here throws: a function returns a status and leaves a message for its thread.
#pragma once

namespace fastswitch {

// Negative, so that a call may answer a handle or a duration (>= 0) or a failure in one number.
enum class Status : int {
  ok = 0,
  badHandle = -1,    // no such engine or store
  badArgument = -2,  // a value outside its range
  badPlan = -3,      // a step plan that does not hold together; nothing was computed
  badRun = -4,       // a copy that leaves its memory; nothing was copied
  badModel = -5,     // tensors missing, of wrong shape, or outside their file
  noMemory = -6,
  notFinite = -7,    // NaN or infinity among the logits of a sequence
  system = -8,       // the operating system or a GPU's driver refused (files, threads, calls)
  deviceLost = -9,   // the GPU answers nothing any more to this process: every later call would fail, too
};

// Keeps a printf-style message for the calling thread and returns `status`.
Status fail(Status status, const char* format, ...) __attribute__((format(printf, 2, 3)));

// The message of the last failure on the calling thread.
const char* lastMessage();

}  // namespace fastswitch
