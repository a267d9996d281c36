"""Print what computes convolutions on the CPU: `python -m jaxkd.nn.cpu_kernels`."""

from jaxkd.nn.cpu_kernels import describe

print(describe())
