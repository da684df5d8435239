"""Fast ways to the numbers of `sashimi.ssm`.

system       a discretised bank of systems in real arithmetic, its powers, its step
two_level    kernels as small matrix products
cauchy       the S4 kernel by Cauchy products: PyKeOps, torch
vandermonde  the S4D kernel by Vandermonde products: PyKeOps, torch
chunked      convolution with a start state and a final state
"""

import importlib.util
import os
import shutil

from sashimi.errors import UserError

# In order of preference, both layer kinds: `python -m benchmarks.kernels` measures it.
BACKENDS = ("two_level", "keops", "torch")


def resolve_backend(name: str) -> str:
    """The backend that `model.layer.backend=name` stands for.

    Raises UserError for an unknown name, and for `keops` where PyKeOps or its compiler is missing.
    """
    if name == "auto":
        return BACKENDS[0]
    if name not in BACKENDS:
        raise UserError(f"model.layer.backend={name} is not one of auto, {', '.join(BACKENDS)}")
    if name == "keops":
        if importlib.util.find_spec("pykeops") is None:
            raise UserError("model.layer.backend=keops needs PyKeOps: pip install pykeops")
        if shutil.which(os.environ.get("CXX", "c++")) is None and shutil.which("g++") is None:
            raise UserError("model.layer.backend=keops needs a C++ compiler: apt install g++, or set CXX")
    return name
