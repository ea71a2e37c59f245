// The types of elements the operators compute with.
#pragma once

namespace kdgan {

enum class Dtype { half, bfloat16, float32, float64 };

}  // namespace kdgan
