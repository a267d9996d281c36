"""Build and load the CPU kernels: once per machine, into the user's cache.

The kernels are C++ and call oneDNN for most products. They are compiled when a network is first traced for the CPU, by
the machine's compiler and for its processor. Where that fails, XLA's own convolutions are used: training is slower, and
`describe` returns the reason.

Python compiled by numba was tried in place of C++. It is as fast, but takes 0.7 s and 128 MB at every start, nearly
three times the code, and crashes or silently returns zeros where XLA's C++ interface reports an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import jax

from jaxkd.compilation_cache import user_cache

SWITCH = "JAXKD_CPU_KERNELS"
"""Environment variable: `off` keeps XLA's own convolutions."""

ONEDNN = "JAXKD_ONEDNN"
"""Environment variable: the path of a `libdnnl.so.3` to use instead of the one that is found."""

SOURCES = (
    "convolution.cc",
    "winograd.cc",
    "amx.cc",
    "amx_kernel_gradient.cc",
    "batch_norm.cc",
    "product.cc",
    "attention.cc",
    "layer_norm.cc",
    "gelu.cc",
    "amx.h",
    "convolution_3x3.h",
    "onednn.h",
    "room.h",
    "threads.h",
    "vectors.h",
)
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-w")
TARGETS = (
    "jaxkd_convolution",
    "jaxkd_convolution_input_gradient",
    "jaxkd_convolution_kernel_gradient",
    "jaxkd_batch_moments",
    "jaxkd_batch_norm",
    "jaxkd_batch_norm_gradient",
    "jaxkd_product",
    "jaxkd_attention",
    "jaxkd_attention_gradient",
    "jaxkd_layer_norm",
    "jaxkd_layer_norm_gradient",
    "jaxkd_gelu",
    "jaxkd_gelu_gradient",
)

_DIGEST = hashlib.sha256().digest_size


class Kernels(NamedTuple):
    """The result of loading the kernels.

    Attributes:
      usable: whether they can be called.
      description: what computes the convolutions, and why, in one line.
      dtypes: names of the types that are computed by the kernels.
    """

    usable: bool
    description: str
    dtypes: tuple[str, ...] = ()


class UnavailableError(Exception):
    """The kernels cannot be used; the message says what is missing."""


@functools.cache
def load() -> Kernels:
    """Return the kernels of this process, building them if this machine has none yet."""
    try:
        return _load()
    except (UnavailableError, OSError) as error:
        return Kernels(False, f"XLA, since {error}")


def _load() -> Kernels:
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "false"):
        raise UnavailableError(f"{SWITCH}=off")
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise UnavailableError(
            f"the kernels are for Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
        )
    with _short_waits():
        version = _load_onednn()
        library, note = _load_kernels()
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    threads = library.jaxkd_threads()
    fewer = ", Winograd for 3x3" * bool(library.jaxkd_winograd())
    fast = "avx512_bf16" in _processor()
    units = "bfloat16 in hardware" if fast else "no bfloat16 units in this processor"
    tiles = " (AMX)" * bool(library.jaxkd_amx())
    return Kernels(
        True,
        f"oneDNN {version}{fewer}, {threads} thread{'s'[: threads > 1]}, {units}{tiles}{note}",
        ("float32", "bfloat16") if fast else ("float32",),
    )


@contextlib.contextmanager
def _short_waits() -> Iterator[None]:
    """Let OpenMP's idle threads wait for tens of microseconds and then sleep, unless the user has set it otherwise.

    Waking a thread takes longer than many a kernel: while they wait, the next one begins at once. Longer waits gain
    nothing here, and cost much time where other programs use the cores too. OpenMP, which reads this when it is loaded,
    cuts waits to a tenth where it has more threads than cores, as here (two of XLA's threads call kernels, each with a
    team), unless they are to be active.
    """
    waits = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "1000"}
    if waits.keys() & os.environ.keys():
        yield
        return
    os.environ.update(waits)
    try:
        yield
    finally:
        for name in waits:
            del os.environ[name]


def _load_onednn() -> str:
    """Load oneDNN so that the kernels find its symbols, and return its version."""
    candidates = list(_onednn_candidates())
    if not candidates:
        raise UnavailableError(f"oneDNN is not installed (pip install 'jaxkd[cpu]', or set {ONEDNN} to a libdnnl.so.3)")
    refused = []
    for path in candidates:
        try:
            library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            version = _version(library)
        except (OSError, AttributeError) as error:
            refused.append(f"{path} cannot be loaded ({error})")
            continue
        if version[0] == 3:
            return ".".join(map(str, version))
        refused.append(f"{path} is version {'.'.join(map(str, version))} and not 3")
    raise UnavailableError("of oneDNN " + "; ".join(refused))


def _onednn_candidates() -> Iterator[str]:
    """Yield the paths at which oneDNN may be: the user's, the Python package's, the environment's, the system's."""
    if chosen := os.environ.get(ONEDNN):
        yield chosen
        return
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("onednn-cpu-gomp") or ():
            if file.name == "libdnnl.so.3":
                yield str(pathlib.Path(str(file.locate())).resolve())
                return
    inside = pathlib.Path(sys.prefix) / "lib" / "libdnnl.so.3"
    if inside.exists():
        yield str(inside)
    elif found := ctypes.util.find_library("dnnl"):
        yield found


class _Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int)]


def _version(library: ctypes.CDLL) -> tuple[int, int, int]:
    query = library.dnnl_version
    query.restype = ctypes.POINTER(_Version)
    found = query().contents
    return found.major, found.minor, found.patch


def _load_kernels() -> tuple[ctypes.CDLL, str]:
    """Return the compiled kernels, from the cache or built now, and a note for their description."""
    folder = user_cache() / "jaxkd" / "kernels"
    path = folder / f"kernels-{_key()}.so"
    try:
        if not _intact(path):
            folder.mkdir(parents=True, exist_ok=True)
            _build(path)
        return ctypes.CDLL(str(path)), ""
    except OSError as error:  # also of a cache that forbids running, or that machines with other C libraries share
        with tempfile.TemporaryDirectory(prefix="jaxkd-") as place:
            path = pathlib.Path(place) / path.name
            _build(path)
            library = ctypes.CDLL(str(path))  # stays mapped when the file is gone
        reason = error.strerror or error
        return library, f", compiled for this process alone since the cache cannot be used ({reason})"


def _key() -> str:
    """Return the key of a build: the hash of its sources, the processor and the version of XLA's interface."""
    digest = hashlib.sha256()
    here = pathlib.Path(__file__).parent
    for name in SOURCES:
        digest.update((here / name).read_bytes())
    processor = {line for line in _processor().splitlines() if line.startswith(("model name", "flags"))}
    for part in (*sorted(processor), importlib.metadata.version("jaxlib"), *FLAGS):
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()[:20]


def _processor() -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/cpuinfo").read_text()
    return platform.processor()


def _compiler() -> list[str]:
    """Return how the C++ compiler is called: the user's, as in CXX="ccache g++", or the first that is found."""
    own = os.environ.get("CXX", "").strip()
    names = [own] if own else ["c++", "g++", "clang++"]
    for name in names:
        program, *arguments = [name] if shutil.which(name) else shlex.split(name)
        if found := shutil.which(program):
            return [found, *arguments]
    raise UnavailableError(f"no C++ compiler was found ({', '.join(names)})")


def _build(target: pathlib.Path) -> None:
    """Compile the sources in parallel, link them, and write the result atomically.

    The file ends with the digest of what is before it, since the loader does not refuse a truncated library: loading it
    ends the process.
    """
    here, compiler = pathlib.Path(__file__).parent, _compiler()
    print("jaxkd: compiling the CPU kernels, once for this machine", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as place:
        units = [name for name in SOURCES if name.endswith(".cc")]
        objects = [os.path.join(place, f"{name}.o") for name in units]
        common = [*compiler, *FLAGS, "-I", str(here), "-isystem", jax.ffi.include_dir()]
        running = [_start([*common, "-c", str(here / name), "-o", to]) for name, to in zip(units, objects, strict=True)]
        for process in running:
            _finish(process)
        built = pathlib.Path(place) / target.name
        _finish(_start([*compiler, *FLAGS, "-shared", *objects, "-o", str(built)]))
        content = built.read_bytes()
        built.write_bytes(content + hashlib.sha256(content).digest())
        os.replace(built, target)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise UnavailableError(f"compiling the CPU kernels failed: {reason}")


def _intact(path: pathlib.Path) -> bool:
    """Return whether a built library exists and is complete."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > _DIGEST and hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]
