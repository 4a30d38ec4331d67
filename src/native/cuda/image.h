// The compiled kernels that this build carries.
#pragma once

#include <cstddef>

namespace fastswitch::cuda {

// A fat binary for the driver's module loader: what nvcc made of kernels.cu, or the file that $FASTSWITCH_CUDA_KERNELS
// names. Null where this build has none, or where that file cannot be read (the message says why). Lives as long as the
// process.
const void* cudaImage(size_t* bytes);

}  // namespace fastswitch::cuda
