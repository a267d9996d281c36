"""What a benchmark found: medians, ratios and fractions as JSON, as a table and as a picture."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarking import network_cost
from benchmarking.contenders import TITLES
from benchmarking.rows import ROWS
from benchmarking.work import Contender, Work
from jaxkd import plots

PACKAGES = ("jaxkd", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "keras", "pillow")

EXPLANATION = {
    **ROWS,
    "seconds": "of each round that counts; contenders took turns within a round",
    "ratios": "images per second of the first over those of the second",
    "of_ceiling": "FLOPs (two for each multiply-accumulate; a backward pass is two forward passes) and bytes that the "
    "convolutions and linear layers read and write, per second, over the fastest matrix product and copy",
    "step": "images lie on the device, without augmentation",
    "epoch": "padded, cropped and mirrored at random; fewer than 50,000 images are a part of CIFAR's epoch",
}


def speed(
    row: str,
    work: Work,
    contenders: Mapping[str, Contender],
    seconds: Mapping[str, Sequence[float]],
    skipped: Mapping[str, str],
    ceilings: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of some work.

    Args:
      row: its key.
      work: what was done.
      contenders: who did it.
      seconds: of each round that counts, by contender.
      skipped: who did not, and why.
      ceilings: from `ceilings.measure`.

    Returns:
      JSON values.
    """
    found = {}
    for key, contender in contenders.items():
        median = float(np.median(seconds[key]))
        rate = len(work.images) / median
        spent = network_cost.cost(contender.passes, work.batch_size)
        found[key] = {
            "title": TITLES[key],
            "precision": contender.precision,
            "seconds": list(seconds[key]),
            "median_seconds": median,
            "images_per_second": rate,
            "milliseconds_a_batch": 1e3 * median * work.batch_size / len(work.images),
            "flops_an_image": spent.flops,
            "of_ceiling": network_cost.fractions(spent, contender.precision, rate, ceilings),
            "facts": contender.facts,
        }
    return {
        "row": row,
        "title": heading(row, work),
        "kind": work.kind,
        "teacher": work.teacher,
        "student": work.student,
        "batch_size": work.batch_size,
        "images": len(work.images),
        "contenders": found,
        "ratios": ratios({key: entry["images_per_second"] for key, entry in found.items()}),
        "skipped": dict(skipped),
    }


def ratios(rates: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """How many times as fast as each other contender each of ours is.

    Example:
      >>> ratios({"jaxkd": 300.0, "jaxkd-cache": 450.0, "torch": 150.0})
      {'jaxkd': {'jaxkd-cache': 0.667, 'torch': 2.0}, 'jaxkd-cache': {'jaxkd': 1.5, 'torch': 3.0}}
    """
    return {
        own: {other: round(rate / rates[other], 3) for other in rates if other != own}
        for own, rate in rates.items()
        if own.startswith("jaxkd")
    }


def heading(row: str, work: Work) -> str:
    """What was done, in words."""
    if work.kind == "evaluation":
        return f"evaluation of {work.teacher}, {len(work.images):,} images"
    part = f"epoch of {len(work.images):,} images, data included" if work.kind == "epoch" else "step"
    return f"{work.teacher} → {work.student}, batch {work.batch_size}: {part}"


def where() -> dict[str, Any]:
    """Devices, machine and versions."""
    devices = jax.devices()
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(),
            "cores": os.cpu_count(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The CPU's name, where the system tells it."""
    about = pathlib.Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def ceilings_in_words(ceilings: Mapping[str, Any]) -> str:
    """What the device can do at most.

    Example:
      >>> ceilings_in_words({"matmul": {"float32": 1.5e11}, "copy": 2e10})
      'at most 0.15 TFLOP/s in float32, and 20 GB/s copied'
    """
    products = ", ".join(f"{value / 1e12:.3g} TFLOP/s in {name}" for name, value in ceilings["matmul"].items())
    return f"at most {products}, and {ceilings['copy'] / 1e9:.3g} GB/s copied"


def table(measure: Mapping[str, Any]) -> str:
    """A record as text: a line for each contender."""
    lines = [f"{measure['row']}  {measure['title']}"]
    if "starts" in measure:
        lines += [f"  {title:34s} {entry['median_seconds']:8.2f} s" for title, entry in measure["starts"].items()]
        lines += [f"  {title}: {ratio:.2f}" for title, ratio in measure["ratios"].items()]
    elif "peaks" in measure:
        lines += [_peak_line(entry) for entry in measure["peaks"].values()]
    else:
        lines += [_speed_line(entry, measure["ratios"].get(key, {})) for key, entry in measure["contenders"].items()]
    return "\n".join([*lines, *(f"  {TITLES.get(key, key):34s} {why}" for key, why in measure["skipped"].items())])


def _speed_line(entry: Mapping[str, Any], ratios: Mapping[str, float]) -> str:
    part = entry["of_ceiling"]
    against = [f"{ratio:.2f} × {TITLES[other]}" for other, ratio in ratios.items() if not other.startswith("jaxkd")]
    return (
        f"  {entry['title']:34s} {entry['images_per_second']:9.1f} images/s {entry['milliseconds_a_batch']:9.1f} ms a "
        f"batch {part['matmul']:6.1%} of matmul {part['copy']:6.1%} of copy  {', '.join(against)}"
    ).rstrip()


def _peak_line(entry: Mapping[str, Any]) -> str:
    device = "" if entry["device"] is None else f", {entry['device'] / 1e6:.0f} MB on the device"
    return f"  {entry['title']:34s} {entry['host'] / 1e6:8.0f} MB on the host{device}"


def draw(measures: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Images per second of every contender, one panel for each work, on scales of their own."""
    speeds = [measure for measure in measures if measure.get("contenders")]
    if not speeds:
        return
    heights = [len(measure["contenders"]) + 1.5 for measure in speeds]
    figure, _ = plots.canvas(width=9.0, height=0.32 * sum(heights))
    figure.clear()
    panels = np.atleast_1d(figure.subplots(len(speeds), 1, height_ratios=heights))
    for panel, measure in zip(panels, speeds, strict=True):
        entries = list(measure["contenders"].items())
        rates = [entry["images_per_second"] for _, entry in entries]
        colours = [plots.COLOURS[0] if key.startswith("jaxkd") else plots.COLOURS[1] for key, _ in entries]
        bars = panel.barh([entry["title"] for _, entry in entries], rates, color=colours)
        panel.bar_label(bars, [f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" for rate in rates], padding=3)
        panel.set_xlim(0, 1.12 * max(rates))
        panel.invert_yaxis()
        panel.set_title(measure["title"], fontsize="medium", loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel(f"images per second, {jax.devices()[0].device_kind}")
    plots.save(figure, path)
