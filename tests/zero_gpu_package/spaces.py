"""The name under which a Space on ZeroGPU finds its library; imported, it stands in for CUDA at once."""

from tests.zero_gpu import ZeroGpu

_space = ZeroGpu()
_space.emulate()
_space.serve_first()
GPU = _space.GPU
