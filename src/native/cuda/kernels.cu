// All kernels. Compiled by nvcc for GPUs, and as C++ for the stand-in of the driver library.
#include "attention.cuh"
#include "matmul.cuh"
#include "rows.cuh"
#include "sample.cuh"
