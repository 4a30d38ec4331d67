#include "cublaslt.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>

namespace fastswitch::cuda {

namespace {

constexpr size_t workspaceBytes = size_t{32} << 20;
constexpr int notSupportedResult = 15;

// A library of a later major version than the driver's does not start.
constexpr struct {
  const char* path;
  int driverVersion;
} usualLibraries[] = {{"libcublasLt.so.13", 13000}, {"libcublasLt.so.12", 0}};

// Filled once, by the first call of findCublasLt; read-only from then on.
CublasLt table;
char foundPath[512] = "";
char reason[512] = "";

bool bindAll(void* library, const char* path) {
  const char* missing = nullptr;
#define FASTSWITCH_BIND(name, type, symbol, parameters)                                 \
  table.name = reinterpret_cast<decltype(table.name)>(dlsym(library, symbol));          \
  if (table.name == nullptr && missing == nullptr) missing = symbol;
  FASTSWITCH_LT_FUNCTIONS(FASTSWITCH_BIND)
#undef FASTSWITCH_BIND
  if (missing == nullptr) return true;
  snprintf(reason, sizeof reason, "%s lacks %s", path, missing);
  return false;
}

// Never closed: its threads and ours may run until the process ends.
bool open(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* error = dlerror();
    snprintf(reason, sizeof reason, "cannot load FASTSWITCH_CUBLASLT=%s: %s", path, error == nullptr ? "unknown error" : error);
    return false;
  }
  snprintf(foundPath, sizeof foundPath, "%s", path);
  return bindAll(library, path);
}

const char* named() {
  const char* path = getenv("FASTSWITCH_CUBLASLT");
  return path == nullptr ? "" : path;
}

bool load() {
  if (strcmp(named(), "none") == 0) {
    snprintf(reason, sizeof reason, "FASTSWITCH_CUBLASLT=none");
    return false;
  }
  if (cublasLtIsNamed()) return open(named());
  int version = 0;
  const Driver* driver = findDriver(nullptr);
  if (driver != nullptr && driver->driverVersion(&version) != successResult) version = 0;
  for (const auto& usual : usualLibraries) {
    if (version >= usual.driverVersion && open(usual.path)) return true;
  }
  snprintf(reason, sizeof reason,
           "libcublasLt.so.13 or .12 is not where libraries are searched; it comes with the CUDA toolkit or with pip's nvidia-cublas, whose "
           "nvidia/cu13/lib/libcublasLt.so.13 may be named in FASTSWITCH_CUBLASLT");
  return false;
}

Status ltCheck(int result, const char* call) {
  if (result == ltSuccess) return Status::ok;
  const char* text = result == 1    ? "not initialised"
                     : result == 3  ? "out of memory"
                     : result == 7  ? "invalid value"
                     : result == 8  ? "the device is too old"
                     : result == 13 ? "execution failed"
                     : result == 15 ? "not supported"
                                    : "see cublasStatus_t";
  return fail(result == 3 ? Status::noMemory : Status::system, "%s failed with %d (%s)", call, result, text);
}

}  // namespace

const CublasLt* findCublasLt(const char** path, const char** why) {
  static const bool usable = load();
  if (path != nullptr) *path = usable ? foundPath : "";
  if (why != nullptr) *why = reason;
  return usable ? &table : nullptr;
}

bool cublasLtIsNamed() { return named()[0] != '\0' && strcmp(named(), "none") != 0; }

bool LtProducts::Shape::operator<(const Shape& other) const {
  return std::tie(rows, columns, inputStride, outputStride, asBf16) <
         std::tie(other.rows, other.columns, other.inputStride, other.outputStride, other.asBf16);
}

LtProducts::~LtProducts() {
  if (gpu_.enter() != Status::ok) return;
  for (auto& [shape, plan] : plans_) drop(plan);
  if (preference_ != nullptr) library_.preferenceDestroy(preference_);
  if (description_ != nullptr) library_.descriptionDestroy(description_);
  if (handle_ != nullptr) library_.destroy(handle_);
}

void LtProducts::drop(Plan& plan) {
  for (LtLayout layout : {plan.weights, plan.inputs, plan.output}) {
    if (layout != nullptr) library_.layoutDestroy(layout);
  }
}

Status LtProducts::start() {
  Status status = workspace_.reserve(gpu_, workspaceBytes);
  if (status == Status::ok) status = ltCheck(library_.create(&handle_), "cublasLtCreate");
  if (status == Status::ok) status = ltCheck(library_.descriptionCreate(&description_, ltCompute32F, ltFloat32), "cublasLtMatmulDescCreate");
  const int transposed = ltTransposed;
  if (status == Status::ok) {
    status = ltCheck(library_.descriptionSet(description_, ltDescriptionTransposeA, &transposed, sizeof transposed), "cublasLtMatmulDescSetAttribute");
  }
  if (status == Status::ok) status = ltCheck(library_.preferenceCreate(&preference_), "cublasLtMatmulPreferenceCreate");
  if (status == Status::ok) {
    const size_t bytes = workspaceBytes;
    status = ltCheck(library_.preferenceSet(preference_, ltPreferenceWorkspaceBytes, &bytes, sizeof bytes), "cublasLtMatmulPreferenceSetAttribute");
  }
  return status;
}

// cublasLt counts columns first: our row-major matrices are its transposed ones. So it computes output' [columns][rows] =
// weights [columns][k] times inputs' [k][rows], where weights, stored as [k][columns] in its order, are transposed back.
Status LtProducts::makePlan(const Shape& shape, Plan* plan) {
  const auto k = static_cast<uint64_t>(shape.inputStride);
  const auto rows = static_cast<uint64_t>(shape.rows);
  const auto columns = static_cast<uint64_t>(shape.columns);
  const int outputType = shape.asBf16 ? ltBfloat16 : ltFloat32;
  const char* const call = "cublasLtMatrixLayoutCreate";
  Status status = ltCheck(library_.layoutCreate(&plan->weights, ltBfloat16, k, columns, shape.inputStride), call);
  if (status == Status::ok) status = ltCheck(library_.layoutCreate(&plan->inputs, ltBfloat16, k, rows, shape.inputStride), call);
  if (status == Status::ok) status = ltCheck(library_.layoutCreate(&plan->output, outputType, columns, rows, shape.outputStride), call);
  if (status != Status::ok) return status;
  LtHeuristic best{};
  int found = 0;
  const int result = library_.heuristics(handle_, description_, plan->weights, plan->inputs, plan->output, plan->output, preference_, 1, &best, &found);
  if (result != notSupportedResult) status = ltCheck(result, "cublasLtMatmulAlgoGetHeuristic");
  plan->known = result == ltSuccess && found >= 1 && best.state == ltSuccess;
  plan->algorithm = best.algorithm;
  return status;
}

Status LtProducts::product(const MatmulParams& params, Stream stream, bool* done) {
  const Shape shape{params.rows, params.columns, params.inputStride, params.outputStride, params.asBf16 != 0};
  auto found = plans_.find(shape);
  if (found == plans_.end()) {
    Plan fresh;
    const Status status = makePlan(shape, &fresh);
    if (status != Status::ok) {
      drop(fresh);
      return status;
    }
    found = plans_.emplace(shape, fresh).first;
  }
  const Plan& plan = found->second;
  *done = plan.known;
  if (!plan.known) return Status::ok;
  const float one = 1;
  const float beta = params.add != 0 ? 1.0f : 0.0f;
  const int result = library_.matmul(handle_, description_, &one, params.weights, plan.weights, params.inputs, plan.inputs, &beta, params.output, plan.output,
                                     params.output, plan.output, &plan.algorithm, workspace_.as<void>(), workspaceBytes, stream);
  return ltCheck(result, "cublasLtMatmul");
}

}  // namespace fastswitch::cuda
