// The source of the CUDA kernels as plain C++: see torch_utils/ops/kernel.h and tests/test_ops_kernels.py.
// One file, so that torch's headers are read once.
#include "bias_act.cpp"
#include "upfirdn2d.cpp"
#include "bias_act.cu"
#include "upfirdn2d.cu"
