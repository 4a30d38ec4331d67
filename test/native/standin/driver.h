// A stand-in of NVIDIA's driver library: the functions that src/native/cuda/driver.h names, on the processor. Device
// memory is memory of this machine, kernels are the project's own sources, and time is the enemy: what is put on a stream
// runs when somebody waits for it, or at some moment that a seeded generator picks, in any order that the streams and
// events allow. A wait that is missing shows as wrong data, and a use that the driver would refuse is refused with a line
// on the error output.
//
// Environment, read once:
//   FASTSWITCH_STANDIN_SEED=7            of the generator
//   FASTSWITCH_STANDIN_LOG=path          one line a call, in order, appended: "cuEventRecord stream 3 event 5"
//   FASTSWITCH_STANDIN_FAIL=call:3,...   this call fails the third time; `call:3=2` with result 2; `call:*` always
//   FASTSWITCH_STANDIN_DRIVER=12.2       the version it states (13.0)
//   FASTSWITCH_STANDIN_DEVICES=2         how many devices (1)
//   FASTSWITCH_STANDIN_MEMORY=bytes      of each device (1 GiB), filled with 0xff when handed out
#pragma once

#include <cstdint>
#include <functional>

#include "../../../src/native/cuda/driver.h"

// Host work in stream order, as a library's kernels would be: it runs when the stream gets to it, possibly within this
// call, and is captured into a graph like a launch. It calls no function of the driver. `label` is its line in the log.
void standinEnqueue(fastswitch::cuda::Stream stream, std::function<void()> work, const char* label);

extern "C" {
// Uses that the driver would refuse or that would go wrong on a device, since the start.
unsigned long standinViolations();
// Allocations, streams, events, graphs and executable graphs that exist now.
unsigned long standinLive();
// Starts the generator anew.
void standinSeed(uint64_t seed);
// Replaces what FASTSWITCH_STANDIN_FAIL said; "" for nothing. The counts of calls start anew.
void standinFail(const char* calls);
// Copies the lines of the log since the last such call to `text`, as many as fit, ended by a zero; answers their length.
size_t standinLog(char* text, size_t bytes);
}
