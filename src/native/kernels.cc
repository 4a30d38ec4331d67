#include "kernels.h"

namespace fastswitch {

namespace {

#ifdef FASTSWITCH_X86_64
bool hasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }

bool hasAvx512() {
  return hasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}
#endif

}  // namespace

const Kernels* findKernels(Isa isa) {
#ifdef FASTSWITCH_X86_64
  if ((isa == Isa::automatic || isa == Isa::avx512) && hasAvx512()) return avx512Kernels();
  if ((isa == Isa::automatic || isa == Isa::avx2) && hasAvx2()) return avx2Kernels();
#endif
  if (isa == Isa::automatic || isa == Isa::portable) return portableKernels();
  return nullptr;
}

}  // namespace fastswitch
