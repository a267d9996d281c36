"""Where the CPU kernels cannot be had, the reason is said and XLA computes; nothing else changes."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pytest

from jaxkd.nn import cpu_kernels
from jaxkd.nn.cpu_kernels import library

needs_kernels = pytest.mark.skipif(not cpu_kernels.usable(jnp.float32), reason=cpu_kernels.describe())
pytestmark = [needs_kernels, pytest.mark.thorough]

SCRIPT = """
import jax.numpy as jnp
from jaxkd.nn import cpu_kernels
from jaxkd.nn.convolution import convolve
print(cpu_kernels.describe())
print(convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), 1, 1)[0, 0, :, 0].tolist())
"""


def start(cache, **environment):
    told = {**os.environ, "XDG_CACHE_HOME": str(cache), "JAX_ENABLE_COMPILATION_CACHE": "0", **environment}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def said(process):
    """The line about what is used, and the lines on the side; the convolution is right in any case."""
    out, errors = (stream.decode() for stream in process.communicate())
    assert process.returncode == 0, errors
    line, values = out.splitlines()
    assert values == "[4.0, 6.0, 6.0, 4.0]"
    return line, errors


@pytest.fixture
def compiler(tmp_path):
    """A compiler that takes no time: it gives the library that this process has, and counts how often it is asked."""
    line = next(line for line in mapped() if "kernels-" in line)
    built = line[line.index("/") :].removesuffix(" (deleted)")  # another process may have built it at the same time
    script = tmp_path / "c++"
    script.write_text(
        f"""#!/bin/sh
for last; do :; done
case "$*" in
  *-shared*) cp {built} "$last"; echo linked >> {tmp_path}/asked ;;
  *) touch "$last" ;;
esac
"""
    )
    script.chmod(0o755)
    return script


def mapped():
    return pathlib.Path("/proc/self/maps").read_text().splitlines()


def asked(compiler):
    return len((compiler.parent / "asked").read_text().splitlines())


def files(cache):
    return sorted(path.name for path in (cache / "jaxkd" / "kernels").iterdir())


def test_they_are_compiled_once_and_said_so(tmp_path, compiler):
    line, errors = said(start(tmp_path, CXX=str(compiler)))
    assert line.startswith("oneDNN 3.")
    assert "compiling the CPU kernels" in errors
    line, errors = said(start(tmp_path, CXX="/no/compiler"))  # none is needed any more
    assert line.startswith("oneDNN 3.")
    assert "compiling" not in errors
    assert asked(compiler) == 1


def test_a_compiler_may_come_with_arguments(tmp_path, compiler):
    line, _ = said(start(tmp_path, CXX=f"{compiler} -m64"))
    assert line.startswith("oneDNN 3.")
    assert asked(compiler) == 1


def test_two_processes_may_build_at_once(tmp_path, compiler):
    both = [start(tmp_path, CXX=str(compiler)) for _ in range(2)]
    assert all(said(process)[0].startswith("oneDNN 3.") for process in both)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("left", [0, 0.5, 0.999])
def test_a_file_that_was_cut_is_built_again(tmp_path, compiler, left):
    said(start(tmp_path, CXX=str(compiler)))
    (name,) = files(tmp_path)
    path = tmp_path / "jaxkd" / "kernels" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    line, _ = said(start(tmp_path, CXX=str(compiler)))
    assert line.startswith("oneDNN 3.")
    assert asked(compiler) == 2
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written(tmp_path, compiler):
    taken = tmp_path / "file"
    taken.write_text("no folder")
    line, _ = said(start(taken, CXX=str(compiler)))
    assert line.startswith("oneDNN 3.")
    assert "for this process alone since the cache cannot be used (Not a directory)" in line


def test_a_cached_library_that_cannot_be_loaded(tmp_path, compiler):
    """As on a file system that forbids running, or built on a machine with another C library."""
    said(start(tmp_path, CXX=str(compiler)))
    (name,) = files(tmp_path)
    content = b"built elsewhere"
    (tmp_path / "jaxkd" / "kernels" / name).write_bytes(content + hashlib.sha256(content).digest())
    line, _ = said(start(tmp_path, CXX=str(compiler)))
    assert line.startswith("oneDNN 3.")
    assert "for this process alone since the cache cannot be used (" in line


def test_no_compiler(tmp_path):
    line, _ = said(start(tmp_path, CXX="/no/compiler"))
    assert line == "XLA, since no C++ compiler was found (/no/compiler)"
    line, _ = said(start(tmp_path, CXX="", PATH=str(tmp_path)))
    assert line == "XLA, since no C++ compiler was found (c++, g++, clang++)"


def test_a_compiler_that_fails(tmp_path):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\necho 'x.cc:1: error: something is wrong' >&2\nexit 1\n")
    script.chmod(0o755)
    line, _ = said(start(tmp_path, CXX=str(script)))
    assert line == "XLA, since compiling the CPU kernels failed: x.cc:1: error: something is wrong"


def test_no_library(tmp_path):
    line, _ = said(start(tmp_path, JAXKD_ONEDNN=str(tmp_path / "libdnnl.so.3")))
    assert line.startswith("XLA, since of oneDNN")
    assert "cannot be loaded" in line


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to make a library of another version")
def test_a_library_of_another_version(tmp_path):
    source, other = tmp_path / "other.c", tmp_path / "libdnnl.so.2"
    source.write_text(
        "struct version { int major, minor, patch; };\n"
        "static struct version old = {2, 7, 1};\n"
        "struct version *dnnl_version(void) { return &old; }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(other)], check=True)
    line, _ = said(start(tmp_path, JAXKD_ONEDNN=str(other)))
    assert line.endswith("libdnnl.so.2 is version 2.7.1 and not 3")
    source.write_text("int nothing;\n")
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(other)], check=True)
    line, _ = said(start(tmp_path, JAXKD_ONEDNN=str(other)))
    assert "cannot be loaded" in line


def test_they_can_be_turned_off(tmp_path):
    line, _ = said(start(tmp_path, JAXKD_CPU_KERNELS="off"))
    assert line == "XLA, since JAXKD_CPU_KERNELS=off"


def test_several_devices_are_xlas(tmp_path):
    line, _ = said(start(tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert line == "XLA, since the kernels are for one device, and this process has 2"


def test_other_platforms_are_xlas(monkeypatch):
    monkeypatch.setattr(library.sys, "platform", "darwin")
    library.load.cache_clear()
    try:
        assert not library.load().usable
        assert "this is darwin" in library.load().description
    finally:
        monkeypatch.undo()
        library.load.cache_clear()
        assert library.load().usable


def waits(tmp_path, compiler, **environment):
    """What OpenMP says of how its threads wait, where it says so."""
    process = start(tmp_path, CXX=str(compiler), OMP_DISPLAY_ENV="verbose", **environment)
    _, errors = said(process)
    told = dict(line.split(" = ", 1) for line in errors.splitlines() if " = " in line)
    return tuple(told[f"  {name}"].strip("'") for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))


def test_openmp_is_told_only_for_the_time_of_loading():
    before = dict(os.environ)
    with library._short_waits():
        pass
    assert dict(os.environ) == before


def test_idle_threads_wait_for_a_short_time(tmp_path, compiler):
    assert waits(tmp_path, compiler) == ("ACTIVE", "1000")


def test_idle_threads_wait_as_the_user_says(tmp_path, compiler):
    assert waits(tmp_path, compiler, OMP_WAIT_POLICY="passive") == ("PASSIVE", "0")
