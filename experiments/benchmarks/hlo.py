"""The work of a compiled program, read from its text: loops, kernels, collectives, and a TPU compiler's estimate."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
KERNELS = (
    *("fusion", "custom-call", "convolution", "dot", "copy", "sort", "scatter", "gather", "reduce", "reduce-window"),
    *("dynamic-slice", "dynamic-update-slice", "select-and-scatter", "rng-bit-generator", "pad", "concatenate"),
    *COLLECTIVES,
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r" = .*? ([a-z][\w\-]*?)(?:-start)?\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"n":"(\d+)"')
_WHILE = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:to_apply|true_computation|branch_computations)=\{?%?([\w.\-]+)")
_LIMIT = re.compile(r" s32\[\]\S* constant\((\d+)\)")


@dataclass(frozen=True)
class Work:
    """All that is executed, each instruction as often as its loops turn.

    Attributes:
      kernels: instructions that are started by themselves.
      cycles: a TPU compiler's estimate; gathers, scatters, windows' gradients and collectives carry none.
      collectives: how often each kind of exchange between devices stands in the program, loops counted once.
      unknown_loops: names of loops whose number of turns is not known.
    """

    kernels: int
    cycles: int
    collectives: Counter[str]
    unknown_loops: tuple[str, ...]


def work_of(text: str) -> Work:
    """Return what a program does, from the text of its compiled module.

    Example:
      >>> work_of('''
      ... %body (p: s32[]) -> s32[] {
      ...   %a = s32[] fusion(%p), kind=kLoop, backend_config={"estimated_cycles":"7"}
      ... }
      ... %condition (p: s32[]) -> pred[] {
      ...   %n = s32[] constant(3)
      ...   ROOT %less = pred[] compare(%p, %n), direction=LT
      ... }
      ... ENTRY %main (p: s32[]) -> s32[] {
      ...   %w = s32[] while(%p), condition=%condition, body=%body
      ... }
      ... ''')
      Work(kernels=3, cycles=21, collectives=Counter(), unknown_loops=())
    """
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if begun := _COMPUTATION.match(line):
            name = begun[2]
            computations[name] = []
            entry = name if begun[1] else entry
        elif name:
            computations[name].append(line)
    collectives: Counter[str] = Counter()
    unknown: list[str] = []

    @functools.cache
    def of(name: str) -> tuple[int, int]:
        kernels = cycles = 0
        for line in computations.get(name, ()):
            found = _INSTRUCTION.search(line)
            if found is None:
                continue
            kind, turns, inner = found[1], 1, []
            if kind == "while" and (parts := _WHILE.search(line)):
                turns, inner = _turns(line, computations.get(parts[1], [])), [parts[2]]
                if not turns:
                    unknown.append(parts[2])
                    turns = 1
            elif kind in ("call", "conditional"):
                inner = _BRANCHES.findall(line)
            kernels += kind in KERNELS
            collectives.update([kind] if kind in COLLECTIVES else [])
            if estimate := _CYCLES.search(line):
                cycles += int(estimate[1])
            for each in map(of, inner):
                kernels, cycles = kernels + turns * each[0], cycles + turns * each[1]
        return kernels, cycles

    kernels, cycles = of(entry)
    return Work(kernels, cycles, collectives, tuple(unknown))


def _turns(line: str, condition: list[str]) -> int:
    """Return how often a loop turns: as the compiler says, or as its counter is compared with; 0 if unknown."""
    if known := _TRIPS.search(line):
        return int(known[1])
    limits = [int(limit[1]) for text in condition if (limit := _LIMIT.search(text))]
    compared = any("ROOT" in text and " compare(" in text for text in condition)
    return limits[0] if compared and len(limits) == 1 else 0
