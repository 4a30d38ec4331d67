// The functions of NVIDIA's cublasLt that we call, found at run time, and products by them. Declared here, since its
// headers need not be where we are built. Names and meaning: cuBLAS documentation, "Using the cuBLASLt API".
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "device.h"
#include "kernels.h"

namespace fastswitch::cuda {

using LtHandle = struct LtHandleOpaque*;
using LtDescription = struct LtDescriptionOpaque*;
using LtLayout = struct LtLayoutOpaque*;
using LtPreference = struct LtPreferenceOpaque*;

struct LtAlgorithm {
  uint64_t data[8];
};

struct LtHeuristic {
  LtAlgorithm algorithm;
  size_t workspaceBytes;
  int state;
  float waves;
  int reserved[4];
};

enum : int {
  ltSuccess = 0,
  ltCompute32F = 68,
  ltFloat32 = 0,
  ltBfloat16 = 14,
  ltTransposed = 1,
  ltDescriptionTransposeA = 3,
  ltPreferenceWorkspaceBytes = 1,
};

#define FASTSWITCH_LT_FUNCTIONS(X)                                                                                       \
  X(getVersion, size_t, "cublasLtGetVersion", ())                                                                        \
  X(create, int, "cublasLtCreate", (LtHandle * handle))                                                                  \
  X(destroy, int, "cublasLtDestroy", (LtHandle handle))                                                                  \
  X(descriptionCreate, int, "cublasLtMatmulDescCreate", (LtDescription * description, int compute, int scaleType))       \
  X(descriptionDestroy, int, "cublasLtMatmulDescDestroy", (LtDescription description))                                   \
  X(descriptionSet, int, "cublasLtMatmulDescSetAttribute", (LtDescription description, int attribute, const void* value, size_t bytes)) \
  X(layoutCreate, int, "cublasLtMatrixLayoutCreate", (LtLayout * layout, int type, uint64_t rows, uint64_t columns, int64_t stride)) \
  X(layoutDestroy, int, "cublasLtMatrixLayoutDestroy", (LtLayout layout))                                                \
  X(preferenceCreate, int, "cublasLtMatmulPreferenceCreate", (LtPreference * preference))                                \
  X(preferenceDestroy, int, "cublasLtMatmulPreferenceDestroy", (LtPreference preference))                                \
  X(preferenceSet, int, "cublasLtMatmulPreferenceSetAttribute", (LtPreference preference, int attribute, const void* value, size_t bytes)) \
  X(heuristics, int, "cublasLtMatmulAlgoGetHeuristic",                                                                   \
    (LtHandle handle, LtDescription description, LtLayout a, LtLayout b, LtLayout c, LtLayout d, LtPreference preference, int wanted, \
     LtHeuristic* results, int* found))                                                                                  \
  X(matmul, int, "cublasLtMatmul",                                                                                       \
    (LtHandle handle, LtDescription description, const void* alpha, const void* a, LtLayout aLayout, const void* b, LtLayout bLayout, \
     const void* beta, const void* c, LtLayout cLayout, void* d, LtLayout dLayout, const LtAlgorithm* algorithm, void* workspace, \
     size_t workspaceBytes, Stream stream))

struct CublasLt {
#define FASTSWITCH_DECLARE(name, type, symbol, parameters) type(*name) parameters = nullptr;
  FASTSWITCH_LT_FUNCTIONS(FASTSWITCH_DECLARE)
#undef FASTSWITCH_DECLARE
};

// The library, loaded on the first call: $FASTSWITCH_CUBLASLT alone where it is set ("none": no library at all), else
// libcublasLt.so.13 (where the driver is for CUDA 13) or .12. Null with the reason in `why`. `path`: under which name it was
// found. Both texts live as long as the process.
const CublasLt* findCublasLt(const char** path, const char** why);

// Whether the environment names a library: to go on without it would hide a mistake.
bool cublasLtIsNamed();

// Products by cublasLt on one device, each shape with the algorithm that its heuristics put first.
class LtProducts {
 public:
  LtProducts(Gpu& gpu, const CublasLt& library) : gpu_(gpu), library_(library) {}
  ~LtProducts();
  LtProducts(const LtProducts&) = delete;
  LtProducts& operator=(const LtProducts&) = delete;

  Status start();
  // What MatmulParams says, on `stream`; not `done` where cublasLt knows no way for this shape.
  Status product(const MatmulParams& params, Stream stream, bool* done);

 private:
  struct Shape {
    int32_t rows, columns, inputStride, outputStride;
    bool asBf16;
    bool operator<(const Shape& other) const;
  };
  struct Plan {
    LtLayout weights = nullptr, inputs = nullptr, output = nullptr;
    LtAlgorithm algorithm{};
    bool known = false;
  };
  Status makePlan(const Shape& shape, Plan* plan);
  void drop(Plan& plan);

  Gpu& gpu_;
  const CublasLt& library_;
  LtHandle handle_ = nullptr;
  LtDescription description_ = nullptr;
  LtPreference preference_ = nullptr;
  DeviceMemory workspace_;
  std::map<Shape, Plan> plans_;
};

}  // namespace fastswitch::cuda
