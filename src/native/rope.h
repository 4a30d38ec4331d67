// Rotary embedding, as transformers computes it.
#pragma once

#include <cmath>

#include "engine.h"

namespace fastswitch {

// Angle = position * inverse frequency in f32, then cos and sin, times the scale: headDim / 2 of each.
inline void rotation(const EngineSpec& spec, size_t position, float* cosines, float* sines) {
  for (size_t i = 0; i < spec.ropeInverseFrequencies.size(); i++) {
    const float angle = static_cast<float>(position) * spec.ropeInverseFrequencies[i];
    cosines[i] = std::cos(angle) * spec.ropeScale;
    sines[i] = std::sin(angle) * spec.ropeScale;
  }
}

}  // namespace fastswitch
