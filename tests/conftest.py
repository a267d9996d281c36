"""What all tests share: strict numerics, and the real data where they are at hand."""

import gc
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from reference import SHARED

# Most of the time goes to compiling what then runs for a moment: two thirds less without optimisations and MLIR.
without = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):  # later ones do not know it, and a flag that XLA does not know ends the process
    without.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(without))
if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are the workers'; kernels on several threads would fight for them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.set_threshold(100_000, 50, 50)  # traced programs are millions of objects, and Python would look at them all the time

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with reference numbers, checkpoints and data that lies beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder of checkpoints and data beside the checkout")
    return SHARED


def _unpack(shared, archive, folder):
    pytest.importorskip("PIL")
    subprocess.run([sys.executable, shared / "data" / "unpack.py", shared / "data" / archive, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def cifar100_dir(shared, tmp_path_factory) -> pathlib.Path:
    """A folder with the official CIFAR-100 files."""
    return _unpack(shared, "cifar-100.zip", tmp_path_factory.mktemp("cifar100"))


@pytest.fixture(scope="session")
def cifar10_dir(shared, tmp_path_factory) -> pathlib.Path:
    """A folder with the official CIFAR-10 test batch."""
    return _unpack(shared, "cifar-10-test.zip", tmp_path_factory.mktemp("cifar10"))
