// The types of elements both operators compute with.
#pragma once

namespace kdgan {

enum class Dtype { half, bfloat16, float32, float64 };

}  // namespace kdgan
