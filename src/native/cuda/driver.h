// The functions of NVIDIA's driver library that we call, found at run time: one binary for machines with a GPU and
// without. Declared here, since the toolkit's headers need not be where we are built. Names and meaning: CUDA Driver API.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../status.h"

namespace fastswitch::cuda {

using Device = int;
using Address = unsigned long long;
using Context = struct ContextOpaque*;
using Module = struct ModuleOpaque*;
using Function = struct FunctionOpaque*;
using Stream = struct StreamOpaque*;
using Event = struct EventOpaque*;
using Graph = struct GraphOpaque*;
using GraphExec = struct GraphExecOpaque*;

// CUmemcpyAttributes, where order 1 is "in stream order"; the locations are for managed memory and stay zero.
struct MemcpyAttributes {
  int order;
  int sourceLocation[2];
  int targetLocation[2];
  unsigned flags;
};

enum : unsigned {
  streamNonBlocking = 1,
  eventBlockingSync = 1,
  eventDisableTiming = 2,
  hostAllocPortable = 1,
};
enum : int {
  successResult = 0,
  notReadyResult = 600,
  attributeMultiprocessors = 16,
  attributeAsyncEngines = 40,
  attributeComputeMajor = 75,
  attributeComputeMinor = 76,
  functionMaxDynamicShared = 8,
  captureThreadLocal = 1,
};

// name in this table, name in the library, parameters
#define FASTSWITCH_DRIVER_FUNCTIONS(X)                                                                              \
  X(init, "cuInit", (unsigned flags))                                                                               \
  X(driverVersion, "cuDriverGetVersion", (int* version))                                                            \
  X(deviceCount, "cuDeviceGetCount", (int* count))                                                                  \
  X(deviceGet, "cuDeviceGet", (Device* device, int ordinal))                                                        \
  X(deviceName, "cuDeviceGetName", (char* name, int length, Device device))                                         \
  X(deviceTotalMem, "cuDeviceTotalMem_v2", (size_t* bytes, Device device))                                          \
  X(deviceAttribute, "cuDeviceGetAttribute", (int* value, int attribute, Device device))                            \
  X(devicePciBusId, "cuDeviceGetPCIBusId", (char* id, int length, Device device))                                   \
  X(primaryContextRetain, "cuDevicePrimaryCtxRetain", (Context* context, Device device))                            \
  X(primaryContextRelease, "cuDevicePrimaryCtxRelease_v2", (Device device))                                         \
  X(contextSetCurrent, "cuCtxSetCurrent", (Context context))                                                        \
  X(memInfo, "cuMemGetInfo_v2", (size_t* free, size_t* total))                                                      \
  X(memAlloc, "cuMemAlloc_v2", (Address* address, size_t bytes))                                                    \
  X(memFree, "cuMemFree_v2", (Address address))                                                                     \
  X(memHostAlloc, "cuMemHostAlloc", (void** memory, size_t bytes, unsigned flags))                                  \
  X(memFreeHost, "cuMemFreeHost", (void* memory))                                                                   \
  X(memsetAsync, "cuMemsetD8Async", (Address to, unsigned char value, size_t bytes, Stream stream))                 \
  X(copyHostToDevice, "cuMemcpyHtoDAsync_v2", (Address to, const void* from, size_t bytes, Stream stream))          \
  X(copyDeviceToHost, "cuMemcpyDtoHAsync_v2", (void* to, Address from, size_t bytes, Stream stream))                \
  X(copyDeviceToDevice, "cuMemcpyDtoDAsync_v2", (Address to, Address from, size_t bytes, Stream stream))            \
  X(streamCreate, "cuStreamCreateWithPriority", (Stream* stream, unsigned flags, int priority))                     \
  X(streamDestroy, "cuStreamDestroy_v2", (Stream stream))                                                           \
  X(streamWaitEvent, "cuStreamWaitEvent", (Stream stream, Event event, unsigned flags))                             \
  X(eventCreate, "cuEventCreate", (Event* event, unsigned flags))                                                   \
  X(eventDestroy, "cuEventDestroy_v2", (Event event))                                                               \
  X(eventRecord, "cuEventRecord", (Event event, Stream stream))                                                     \
  X(eventSynchronize, "cuEventSynchronize", (Event event))                                                          \
  X(eventElapsed, "cuEventElapsedTime", (float* millis, Event from, Event to))                                      \
  X(moduleLoad, "cuModuleLoadData", (Module* module, const void* image))                                            \
  X(moduleUnload, "cuModuleUnload", (Module module))                                                                \
  X(moduleFunction, "cuModuleGetFunction", (Function* function, Module module, const char* name))                   \
  X(functionSetAttribute, "cuFuncSetAttribute", (Function function, int attribute, int value))                      \
  X(launch, "cuLaunchKernel",                                                                                       \
    (Function function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX, unsigned blockY, unsigned blockZ, unsigned sharedBytes, \
     Stream stream, void** params, void** extra))                                                                   \
  X(captureBegin, "cuStreamBeginCapture_v2", (Stream stream, int mode))                                             \
  X(captureEnd, "cuStreamEndCapture", (Stream stream, Graph* graph))                                                \
  X(graphInstantiate, "cuGraphInstantiateWithFlags", (GraphExec* exec, Graph graph, unsigned long long flags))      \
  X(graphDestroy, "cuGraphDestroy", (Graph graph))                                                                  \
  X(graphExecDestroy, "cuGraphExecDestroy", (GraphExec exec))                                                       \
  X(graphLaunch, "cuGraphLaunch", (GraphExec exec, Stream stream))                                                  \
  X(errorName, "cuGetErrorName", (int result, const char** name))                                                   \
  X(errorString, "cuGetErrorString", (int result, const char** text))

// Only in drivers of 12.8 and later; null elsewhere. The first has one parameter less than the second.
#define FASTSWITCH_DRIVER_OPTIONAL(X)                                                                               \
  X(copyBatch, "cuMemcpyBatchAsync_v2",                                                                             \
    (Address * to, Address * from, size_t * bytes, size_t count, MemcpyAttributes * attributes, size_t * attributeIndexes, size_t attributeCount, \
     Stream stream))                                                                                                \
  X(copyBatchFirst, "cuMemcpyBatchAsync",                                                                           \
    (Address * to, Address * from, size_t * bytes, size_t count, MemcpyAttributes * attributes, size_t * attributeIndexes, size_t attributeCount, \
     size_t * failed, Stream stream))

struct Driver {
#define FASTSWITCH_DECLARE(name, symbol, parameters) int(*name) parameters = nullptr;
  FASTSWITCH_DRIVER_FUNCTIONS(FASTSWITCH_DECLARE)
  FASTSWITCH_DRIVER_OPTIONAL(FASTSWITCH_DECLARE)
#undef FASTSWITCH_DECLARE
};

// The driver library, loaded and initialised on the first call: $FASTSWITCH_LIBCUDA, or libcuda.so.1. Null with the reason
// in `why` (which lives as long as the process): not installed, too old, or without a device.
const Driver* findDriver(const char** why);

// ok, or a failure that names the call and the driver's error: `noMemory` for out of memory, `deviceLost` where no call will
// work any more, else `system`.
Status check(int result, const char* call);

}  // namespace fastswitch::cuda
