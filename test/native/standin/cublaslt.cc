// The few functions of cublasLt that the engine calls, on the processor and in stream order. Layouts that the library
// would refuse, or that do not fit each other, are refused here too.
#include <cstdlib>
#include <cstring>

#include "../../../src/native/cuda/cublaslt.h"
#include "driver.h"

namespace fastswitch::cuda {

struct LtHandleOpaque {
  int unused;
};

struct LtDescriptionOpaque {
  int compute, scaleType, transposeA;
};

struct LtLayoutOpaque {
  int type;
  uint64_t rows, columns;
  int64_t stride;
};

struct LtPreferenceOpaque {
  size_t workspaceBytes;
};

}  // namespace fastswitch::cuda

using namespace fastswitch::cuda;

namespace {

constexpr int notInitialised = 1;
constexpr int invalidValue = 7;
constexpr int notSupported = 15;
constexpr uint64_t algorithmMark = 0x5354414e44494e;

float fromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t toBf16Bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

bool sound(const LtLayoutOpaque& layout) { return layout.rows > 0 && layout.columns > 0 && layout.stride >= static_cast<int64_t>(layout.rows); }

// Whether a' [k][m] transposed, times b [k][n], is d [m][n], in types that the library multiplies.
bool fits(const LtDescriptionOpaque& description, const LtLayoutOpaque& a, const LtLayoutOpaque& b, const LtLayoutOpaque& c, const LtLayoutOpaque& d) {
  const bool kinds = description.compute == ltCompute32F && description.scaleType == ltFloat32 && description.transposeA == ltTransposed;
  const bool types = a.type == ltBfloat16 && b.type == ltBfloat16 && (d.type == ltFloat32 || d.type == ltBfloat16) && c.type == d.type;
  const bool sizes = a.rows == b.rows && a.columns == d.rows && b.columns == d.columns && c.rows == d.rows && c.columns == d.columns;
  return kinds && types && sizes && sound(a) && sound(b) && sound(c) && sound(d);
}

struct Work {
  LtLayoutOpaque a, b, d;
  const uint16_t* aValues;
  const uint16_t* bValues;
  void* dValues;
  float alpha, beta;
};

void multiply(const Work& work) {
  const auto inputs = work.a.rows;
  for (uint64_t column = 0; column < work.d.columns; column++) {
    for (uint64_t row = 0; row < work.d.rows; row++) {
      const uint16_t* a = work.aValues + row * static_cast<uint64_t>(work.a.stride);
      const uint16_t* b = work.bValues + column * static_cast<uint64_t>(work.b.stride);
      float sum = 0;
      for (uint64_t k = 0; k < inputs; k++) sum += fromBf16(a[k]) * fromBf16(b[k]);
      sum *= work.alpha;
      const uint64_t at = column * static_cast<uint64_t>(work.d.stride) + row;
      if (work.d.type == ltFloat32) {
        auto* values = static_cast<float*>(work.dValues);
        values[at] = work.beta == 0 ? sum : sum + work.beta * values[at];
      } else {
        auto* values = static_cast<uint16_t*>(work.dValues);
        values[at] = toBf16Bits(work.beta == 0 ? sum : sum + work.beta * fromBf16(values[at]));
      }
    }
  }
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED size_t cublasLtGetVersion() { return 130101; }

// Fails where it is named among the calls that are to, as with a driver that is too old for the library.
EXPORTED int cublasLtCreate(LtHandle* handle) {
  const char* failing = getenv("FASTSWITCH_STANDIN_FAIL");
  if (failing != nullptr && strstr(failing, "cublasLtCreate") != nullptr) return notInitialised;
  *handle = new LtHandleOpaque{};
  return ltSuccess;
}

EXPORTED int cublasLtDestroy(LtHandle handle) {
  delete handle;
  return ltSuccess;
}

EXPORTED int cublasLtMatmulDescCreate(LtDescription* description, int compute, int scaleType) {
  *description = new LtDescriptionOpaque{compute, scaleType, 0};
  return ltSuccess;
}

EXPORTED int cublasLtMatmulDescDestroy(LtDescription description) {
  delete description;
  return ltSuccess;
}

EXPORTED int cublasLtMatmulDescSetAttribute(LtDescription description, int attribute, const void* value, size_t bytes) {
  if (attribute != ltDescriptionTransposeA || bytes != sizeof(int)) return invalidValue;
  memcpy(&description->transposeA, value, bytes);
  return ltSuccess;
}

EXPORTED int cublasLtMatrixLayoutCreate(LtLayout* layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  *layout = new LtLayoutOpaque{type, rows, columns, stride};
  return ltSuccess;
}

EXPORTED int cublasLtMatrixLayoutDestroy(LtLayout layout) {
  delete layout;
  return ltSuccess;
}

EXPORTED int cublasLtMatmulPreferenceCreate(LtPreference* preference) {
  *preference = new LtPreferenceOpaque{0};
  return ltSuccess;
}

EXPORTED int cublasLtMatmulPreferenceDestroy(LtPreference preference) {
  delete preference;
  return ltSuccess;
}

EXPORTED int cublasLtMatmulPreferenceSetAttribute(LtPreference preference, int attribute, const void* value, size_t bytes) {
  if (attribute != ltPreferenceWorkspaceBytes || bytes != sizeof(size_t)) return invalidValue;
  memcpy(&preference->workspaceBytes, value, bytes);
  return ltSuccess;
}

EXPORTED int cublasLtMatmulAlgoGetHeuristic(LtHandle handle, LtDescription description, LtLayout a, LtLayout b, LtLayout c, LtLayout d,
                                            LtPreference preference, int wanted, LtHeuristic* results, int* found) {
  *found = 0;
  if (handle == nullptr || preference == nullptr || wanted < 1) return invalidValue;
  if (!fits(*description, *a, *b, *c, *d)) return notSupported;
  // What the library makes of rows that begin at odd places is its affair: here it knows no way.
  if (d->type == ltBfloat16 && d->stride % 8 != 0) return notSupported;
  results[0] = LtHeuristic{};
  results[0].algorithm.data[0] = algorithmMark;
  results[0].workspaceBytes = preference->workspaceBytes;
  *found = 1;
  return ltSuccess;
}

EXPORTED int cublasLtMatmul(LtHandle handle, LtDescription description, const void* alpha, const void* a, LtLayout aLayout, const void* b, LtLayout bLayout,
                            const void* beta, const void* c, LtLayout cLayout, void* d, LtLayout dLayout, const LtAlgorithm* algorithm, void* workspace,
                            size_t workspaceBytes, Stream stream) {
  if (handle == nullptr || !fits(*description, *aLayout, *bLayout, *cLayout, *dLayout)) return invalidValue;
  if (c != d || algorithm == nullptr || algorithm->data[0] != algorithmMark || workspace == nullptr || workspaceBytes == 0) return invalidValue;
  Work work{*aLayout, *bLayout, *dLayout, static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b), d, 0, 0};
  memcpy(&work.alpha, alpha, sizeof work.alpha);
  memcpy(&work.beta, beta, sizeof work.beta);
  standinEnqueue(stream, [work] { multiply(work); }, "cublasLtMatmul");
  return ltSuccess;
}
