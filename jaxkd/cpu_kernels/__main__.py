"""Says what computes convolutions on the CPU: `python -m jaxkd.cpu_kernels`."""

from jaxkd.cpu_kernels import describe

print(describe())
