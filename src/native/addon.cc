// The door between JavaScript and C++: turns values into arguments and answers into values, and decides nothing. Every
// function answers a number (a handle, or microseconds) or a negative status whose text `lastMessage` has.
#include <napi.h>

#include <chrono>

#include "cuda/device.h"
#include "engine.h"
#include "kvstore.h"

namespace {

using namespace fastswitch;
using Clock = std::chrono::steady_clock;

Napi::Value answer(const Napi::CallbackInfo& info, Status status, double value) {
  return Napi::Number::New(info.Env(), status == Status::ok ? value : static_cast<double>(static_cast<int>(status)));
}

double microsSince(Clock::time_point start) { return static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count()); }

int integer(const Napi::Value& value) { return value.IsNumber() ? value.As<Napi::Number>().Int32Value() : -1; }

double number(const Napi::Value& value) { return value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1; }

size_t size(const Napi::Value& value) {
  const double x = number(value);
  return x >= 0 && x < 9007199254740992.0 ? static_cast<size_t>(x) : SIZE_MAX;
}

// A typed array's memory, shared or not; null where the value is no array of this type.
template <class T>
struct View {
  T* data = nullptr;
  size_t count = 0;

  View(const Napi::Value& value, napi_typedarray_type wanted) {
    if (!value.IsTypedArray()) return;
    napi_typedarray_type type;
    void* memory = nullptr;
    if (napi_get_typedarray_info(value.Env(), value, &type, &count, &memory, nullptr, nullptr) != napi_ok || type != wanted) {
      count = 0;
      return;
    }
    // An empty array may have no memory at all.
    static T nothing{};
    data = count == 0 ? &nothing : static_cast<T*>(memory);
  }
};

std::string text(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string();
}

int field(const Napi::Object& object, const char* key) { return integer(object.Get(key)); }

bool flag(const Napi::Object& object, const char* key) { return object.Get(key).ToBoolean().Value(); }

float real(const Napi::Object& object, const char* key) { return static_cast<float>(number(object.Get(key))); }

// In the order of Role.
const char* const roles[] = {"embed", "finalNorm", "head",  "attentionNorm", "mlpNorm", "q",     "k",    "v",  "o",
                             "qBias", "kBias",     "vBias", "oBias",         "qNorm",   "kNorm", "gate", "up", "down"};

Role roleOf(const std::string& name) {
  for (int i = 0; i < static_cast<int>(Role::count); i++) {
    if (name == roles[i]) return static_cast<Role>(i);
  }
  return Role::count;
}

Status readTensors(const Napi::Object& from, EngineSpec* spec) {
  const Napi::Value list = from.Get("tensors");
  if (!list.IsArray()) return fail(Status::badModel, "spec.tensors is no array");
  const auto tensors = list.As<Napi::Array>();
  for (uint32_t i = 0; i < tensors.Length(); i++) {
    if (!tensors.Get(i).IsObject()) return fail(Status::badModel, "spec.tensors[%u] is no object", i);
    const auto tensor = tensors.Get(i).As<Napi::Object>();
    const std::string dtype = text(tensor, "dtype");
    if (dtype != "f32" && dtype != "bf16" && dtype != "f16") return fail(Status::badModel, "unknown tensor dtype '%s'", dtype.c_str());
    const FileDtype type = dtype == "f32" ? FileDtype::f32 : dtype == "bf16" ? FileDtype::bf16 : FileDtype::f16;
    spec->tensors.push_back({roleOf(text(tensor, "role")), field(tensor, "layer"), field(tensor, "file"), number(tensor.Get("offset")), type,
                             field(tensor, "rows"), field(tensor, "columns")});
  }
  return Status::ok;
}

Status readSpec(const Napi::Value& value, EngineSpec* spec) {
  if (!value.IsObject()) return fail(Status::badArgument, "the engine needs a spec");
  const auto from = value.As<Napi::Object>();
  spec->vocabulary = field(from, "vocabulary");
  spec->hidden = field(from, "hidden");
  spec->layers = field(from, "layers");
  spec->heads = field(from, "heads");
  spec->kvHeads = field(from, "kvHeads");
  spec->headDim = field(from, "headDim");
  spec->intermediate = field(from, "intermediate");
  spec->rmsEps = real(from, "rmsEps");
  spec->positions = field(from, "positions");
  const View<float> frequencies(from.Get("ropeInverseFrequencies"), napi_float32_array);
  if (frequencies.data != nullptr) spec->ropeInverseFrequencies.assign(frequencies.data, frequencies.data + frequencies.count);
  spec->ropeScale = real(from, "ropeScale");
  spec->window = field(from, "window");
  spec->windowFromLayer = field(from, "windowFromLayer");
  spec->tiedHead = flag(from, "tiedHead");
  const Napi::Value files = from.Get("files");
  if (!files.IsArray()) return fail(Status::badModel, "spec.files is no array");
  const auto paths = files.As<Napi::Array>();
  for (uint32_t i = 0; i < paths.Length(); i++) spec->files.push_back(paths.Get(i).ToString().Utf8Value());
  return readTensors(from, spec);
}

Status readOptions(const Napi::Value& value, EngineOptions* options) {
  if (!value.IsObject()) return fail(Status::badArgument, "the engine needs options");
  const auto from = value.As<Napi::Object>();
  const std::string quantize = text(from, "quantize");
  const std::string kvDtype = text(from, "kvDtype");
  const std::string isa = text(from, "isa");
  if (quantize != "none" && quantize != "q8") return fail(Status::badArgument, "unknown quantize '%s'", quantize.c_str());
  if (kvDtype != "f32" && kvDtype != "bf16") return fail(Status::badArgument, "unknown kvDtype '%s'", kvDtype.c_str());
  if (isa != "auto" && isa != "avx512" && isa != "avx2" && isa != "portable") return fail(Status::badArgument, "unknown isa '%s'", isa.c_str());
  options->device = field(from, "device");
  options->batchInvariant = flag(from, "batchInvariant");
  options->graphs = flag(from, "graphs");
  options->threads = field(from, "threads");
  options->q8 = quantize == "q8";
  options->kvDtype = kvDtype == "f32" ? kKvF32 : kKvBf16;
  options->isa = isa == "auto" ? Isa::automatic : isa == "avx512" ? Isa::avx512 : isa == "avx2" ? Isa::avx2 : Isa::portable;
  options->maxBatchTokens = field(from, "maxBatchTokens");
  options->maxSequences = field(from, "maxSequences");
  return Status::ok;
}

Napi::Value createStoreCall(const Napi::CallbackInfo& info) {
  if (!info[3].IsObject()) return answer(info, fail(Status::badArgument, "the store needs options"), 0);
  const auto from = info[3].As<Napi::Object>();
  StoreOptions options;
  options.device = field(from, "device");
  options.batchCopies = flag(from, "batchCopies");
  int id = 0;
  const Status status = createStore(size(info[0]), size(info[1]), size(info[2]), options, &id);
  return answer(info, status, id);
}

Napi::Value destroyStoreCall(const Napi::CallbackInfo& info) { return answer(info, destroyStore(integer(info[0])), 0); }

Napi::Value copyRunsCall(const Napi::CallbackInfo& info) {
  const View<int32_t> runs(info[2], napi_int32_array);
  if (runs.data == nullptr || runs.count % 3 != 0) return answer(info, fail(Status::badArgument, "runs are an Int32Array of three words each"), 0);
  const auto start = Clock::now();
  const Status status = copyRuns(integer(info[0]), static_cast<Direction>(integer(info[1])), runs.data, runs.count / 3);
  return answer(info, status, microsSince(start));
}

Napi::Value copyBytesCall(const Napi::CallbackInfo& info) {
  const View<double> pieces(info[2], napi_float64_array);
  if (pieces.data == nullptr || pieces.count % 3 != 0) return answer(info, fail(Status::badArgument, "pieces are a Float64Array of three numbers each"), 0);
  const auto start = Clock::now();
  const Status status = copyBytes(integer(info[0]), static_cast<Direction>(integer(info[1])), pieces.data, pieces.count / 3);
  return answer(info, status, microsSince(start));
}

Status memoryCall(const Napi::CallbackInfo& info, bool write) {
  const View<uint8_t> buffer(info[3], napi_uint8_array);
  const int memory = integer(info[1]);
  if (buffer.data == nullptr || (memory != 0 && memory != 1)) return fail(Status::badArgument, "store, memory 0 or 1, offset, Uint8Array");
  if (write) return writeStore(integer(info[0]), static_cast<Memory>(memory), size(info[2]), buffer.data, buffer.count);
  return readStore(integer(info[0]), static_cast<Memory>(memory), size(info[2]), buffer.data, buffer.count);
}

Napi::Value readStoreCall(const Napi::CallbackInfo& info) { return answer(info, memoryCall(info, false), 0); }

Napi::Value writeStoreCall(const Napi::CallbackInfo& info) { return answer(info, memoryCall(info, true), 0); }

Napi::Value announceStepCall(const Napi::CallbackInfo& info) { return answer(info, announceStep(integer(info[0])), 0); }

Napi::Value createEngineCall(const Napi::CallbackInfo& info) {
  EngineSpec spec;
  EngineOptions options;
  int id = 0;
  Status status = readSpec(info[0], &spec);
  if (status == Status::ok) status = readOptions(info[1], &options);
  if (status == Status::ok) status = createEngine(spec, options, size(info[2]), &id);
  return answer(info, status, id);
}

Napi::Value destroyEngineCall(const Napi::CallbackInfo& info) { return answer(info, destroyEngine(integer(info[0])), 0); }

Napi::Value engineInfoCall(const Napi::CallbackInfo& info) {
  EngineInfo facts{};
  const Status status = engineInfo(integer(info[0]), &facts);
  if (status != Status::ok) return answer(info, status, 0);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("isa", facts.isa);
  object.Set("blockBytes", static_cast<double>(facts.blockBytes));
  object.Set("weightBytes", static_cast<double>(facts.weightBytes));
  object.Set("headBytes", static_cast<double>(facts.headBytes));
  object.Set("exact", facts.exact);
  return object;
}

Napi::Value readWeightsCall(const Napi::CallbackInfo& info) {
  uint64_t folded = 0;
  const auto start = Clock::now();
  const Status status = readWeights(integer(info[0]), &folded);
  return answer(info, status, microsSince(start));
}

// (engine, store, plan, result, logits?): microseconds.
Napi::Value stepCall(const Napi::CallbackInfo& info) {
  const View<int32_t> plan(info[2], napi_int32_array);
  const View<int32_t> result(info[3], napi_int32_array);
  if (plan.data == nullptr || result.data == nullptr) return answer(info, fail(Status::badArgument, "plan and result are Int32Arrays"), 0);
  const View<float> logits(info[4], napi_float32_array);
  const auto start = Clock::now();
  const Status status = step(integer(info[0]), integer(info[1]), plan.data, plan.count, result.data, result.count, logits.data, logits.count);
  return answer(info, status, microsSince(start));
}

Napi::Value isasCall(const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  for (const Isa isa : {Isa::avx512, Isa::avx2, Isa::portable}) {
    const Kernels* kernels = findKernels(isa);
    if (kernels != nullptr) names.Set(names.Length(), kernels->name);
  }
  return names;
}

Napi::Value devicesCall(const Napi::CallbackInfo& info) {
  const cuda::Found found = cuda::findDevices();
  Napi::Array devices = Napi::Array::New(info.Env());
  for (size_t i = 0; i < found.devices.size(); i++) {
    const cuda::DeviceFacts& facts = found.devices[i];
    Napi::Object one = Napi::Object::New(info.Env());
    one.Set("ordinal", static_cast<double>(i));
    one.Set("name", facts.name);
    one.Set("computeCapability", std::to_string(facts.computeMajor) + "." + std::to_string(facts.computeMinor));
    one.Set("multiprocessors", static_cast<double>(facts.multiprocessors));
    one.Set("copyEngines", static_cast<double>(facts.copyEngines));
    one.Set("totalBytes", static_cast<double>(facts.totalBytes));
    one.Set("freeBytes", static_cast<double>(facts.freeBytes));
    one.Set("pciBusId", facts.pciBusId);
    one.Set("problem", facts.problem);
    devices.Set(static_cast<uint32_t>(i), one);
  }
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("driverVersion", static_cast<double>(found.driverVersion));
  object.Set("problem", found.problem);
  object.Set("kernels", found.kernels);
  object.Set("batchCopies", found.batchCopies);
  object.Set("cublasLt", found.cublasLt);
  object.Set("devices", devices);
  return object;
}

Napi::Value lastMessageCall(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), lastMessage()); }

Napi::Object start(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, Napi::Value (*call)(const Napi::CallbackInfo&)) { exports.Set(name, Napi::Function::New(env, call, name)); };
  add("createStore", createStoreCall);
  add("destroyStore", destroyStoreCall);
  add("copyRuns", copyRunsCall);
  add("copyBytes", copyBytesCall);
  add("readStore", readStoreCall);
  add("writeStore", writeStoreCall);
  add("announceStep", announceStepCall);
  add("createEngine", createEngineCall);
  add("destroyEngine", destroyEngineCall);
  add("engineInfo", engineInfoCall);
  add("readWeights", readWeightsCall);
  add("step", stepCall);
  add("isas", isasCall);
  add("devices", devicesCall);
  add("lastMessage", lastMessageCall);
  return exports;
}

}  // namespace

NODE_API_MODULE(fastswitch, start)
