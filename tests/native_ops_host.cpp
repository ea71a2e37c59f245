// The source of the CUDA kernels as plain C++: see torch_utils/ops/kernel.h and tests/test_ops_kernels.py.
#include "bias_act.cu"
#include "scaled_bias_act.cu"
#include "upfirdn2d.cu"
