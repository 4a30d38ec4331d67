// The kernels as this library knows them: compiled for the processor from the sources that nvcc compiles, found by name.
#pragma once

#include <cstddef>

struct HostKernel {
  const char* name;
  size_t paramBytes;  // of its one parameter struct
  void (*run)(const void* params, unsigned grid[3], unsigned block, unsigned sharedBytes);
};

// Null: no kernel of this name.
const HostKernel* findHostKernel(const char* name);
