"""Results of a benchmark: medians, ratios and fractions as JSON, as a table and as a picture."""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import network_cost
from benchmarks.contenders import TITLES, TUNED
from benchmarks.rows import ROWS
from benchmarks.work import SEEDS, Work, cores, features, processor
from jaxkd import plots

PACKAGES = (
    *("jaxkd", "jax", "jaxlib", "flax", "optax", "numpy", "numba", "llvmlite", "onednn-cpu-gomp"),
    *("torch", "triton", "keras", "pillow"),
)

EXPLANATION = {
    **ROWS,
    "seconds": "of each round that counts; each contender is a process of its own, and they took turns within a round",
    "ratios": "images per second of the first over those of the second",
    "ratio_to_tuned": "the same, over those of the tuned PyTorch of the same precision",
    "peak": "bytes that the contender's process held at most, from its start to its last round; device: on its GPU",
    "waited": "seconds that the process had nothing to do, and the CPU seconds that it used meanwhile",
    "of_ceiling": "FLOPs (two for each multiply-accumulate; a backward pass is two forward passes) and bytes that the "
    "convolutions and linear layers read and write, per second, over the fastest matrix product and copy",
    "step": "images lie on the device, without augmentation",
    "epoch": "padded, cropped and mirrored at random; fewer than 50,000 images are a part of CIFAR's epoch",
}


def speed(
    row: str,
    work: Work,
    told: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, Sequence[float]],
    skipped: Mapping[str, str],
    ceilings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record of some work.

    Args:
      row: its key.
      work: what was done.
      told: what those who did it tell of themselves; see `fresh_process.Orders.tell`.
      seconds: of each round that counts, by contender.
      skipped: who did not, and why.
      ceilings: from `network_cost.ceilings_of`.

    Returns:
      JSON values.
    """
    found: dict[str, dict[str, Any]] = {}
    rates = {key: work.examples / float(np.median(seconds[key])) for key in told}
    for key, own in told.items():
        spent = network_cost.cost(own["passes"], work.batch_size, work.num_classes, work.image_shapes)
        found[key] = {
            "title": TITLES[key],
            "precision": own["precision"],
            "seconds": list(seconds[key]),
            "median_seconds": work.examples / rates[key],
            "images_per_second": rates[key],
            "milliseconds_a_batch": 1e3 * work.batch_size / rates[key],
            "ratio_to_tuned": ratio_to_tuned(key, own["precision"], rates),
            "flops_an_image": spent.flops,
            "of_ceiling": network_cost.fractions(spent, own["precision"], rates[key], ceilings),
            **{name: own[name] for name in ("cores", "threads", "peak", "waited", "facts")},
        }
    return {
        "row": row,
        "title": heading(row, work),
        "kind": work.kind,
        "teacher": work.teacher,
        "student": work.student,
        "batch_size": work.batch_size,
        "images": len(work.images),
        "image_shape": list(work.images.shape[1:]),
        "epochs": work.epochs,
        "students": work.students,
        "contenders": found,
        "ratios": ratios(rates),
        "skipped": dict(skipped),
    }


def peaks(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return the most bytes that training held, on the host and on the device, from the record of a training step."""
    found = {key: {"title": entry["title"], **entry["peak"]} for key, entry in step["contenders"].items()}
    title = f"peak memory: {step['teacher']} → {step['student']}, batch {step['batch_size']}"
    return {"row": "f", "title": title, "unit": "bytes", "peaks": found, "skipped": step["skipped"]}


def ratio_to_tuned(key: str, precision: str, rates: Mapping[str, float]) -> float | None:
    """Return how many times as fast as the tuned PyTorch of its precision a contender is; None where that is missing.

    Example:
      >>> ratio_to_tuned("jaxkd-bf16", "bfloat16", {"jaxkd-bf16": 3.0, "torch-tuned": 3.0, "torch-tuned-bf16": 4.0})
      0.75
    """
    tuned = TUNED[precision]
    return round(rates[key] / rates[tuned], 3) if tuned in rates and key != tuned else None


def ratios(rates: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return how many times as fast as each other contender each of ours is.

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
    """Return what was done, in words."""
    if work.kind == "evaluation":
        return f"evaluation of {work.teacher}, {len(work.images):,} images"
    if work.kind == "grid":
        what = f"{len(work.images):,} images, {work.epochs} epoch{'s' * (work.epochs > 1)}"
        return f"{work.teacher} → {work.students} × {work.student}, ATS grid, batch {work.batch_size}: {what}"
    part = f"epoch of {len(work.images):,} images, data included" if work.kind == "epoch" else "step"
    seen = f" at {work.student_size} pixels" if work.student_size else ""
    return f"{work.teacher} → {work.student}{seen}, batch {work.batch_size}: {part}"


def where(device: Mapping[str, Any]) -> dict[str, Any]:
    """Return when and where a record was made: device, machine, versions and seeds.

    Args:
      device: what JAX computes on: `platform`, `kind` and `count`.
    """
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": dict(device),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(),
            "features": features(),
            "cores": cores(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "seeds": SEEDS._asdict(),
    }


def version(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def ceilings_in_words(ceilings: Mapping[str, Any]) -> str:
    """Return what the device can do at most.

    Example:
      >>> ceilings_in_words({"matmul": {"float32": 1.5e11}, "copy": 2e10})
      'at most 0.15 TFLOP/s in float32, and 20 GB/s copied'
    """
    products = ", ".join(f"{value / 1e12:.3g} TFLOP/s in {name}" for name, value in ceilings["matmul"].items())
    return f"at most {products}, and {ceilings['copy'] / 1e9:.3g} GB/s copied"


def table(measure: Mapping[str, Any]) -> str:
    """Return a record as text: a line for each contender."""
    lines = [f"{measure['row']}  {measure['title']}"]
    if "starts" in measure:
        lines += [f"  {title:34s} {entry['median_seconds']:8.2f} s" for title, entry in measure["starts"].items()]
        lines += [f"  {title}: {ratio:.2f}" for title, ratio in measure["ratios"].items()]
    elif "peaks" in measure:
        lines += [_peak_line(entry) for entry in measure["peaks"].values()]
    else:
        lines += [_speed_line(key, measure) for key in measure["contenders"]]
    return "\n".join([*lines, *(f"  {TITLES.get(key, key):34s} {why}" for key, why in measure["skipped"].items())])


def _speed_line(key: str, measure: Mapping[str, Any]) -> str:
    entry = measure["contenders"][key]
    part, ratios, tuned = entry["of_ceiling"], measure["ratios"].get(key, {}), TUNED[entry["precision"]]
    against = [f"{ratios[tuned]:.2f} × {TITLES[tuned]}"] if tuned in ratios else []
    others = [other for other in ratios if not other.startswith("jaxkd") and other not in TUNED.values()]
    against += [f"{ratios[other]:.2f} × {TITLES[other]}" for other in others]
    whole = f"{entry['median_seconds']:9.2f} s" if measure["kind"] == "grid" else ""
    return (
        f"  {entry['title']:34s}{whole} {entry['images_per_second']:9.1f} images/s "
        f"{entry['milliseconds_a_batch']:9.1f} ms a batch {part['matmul']:6.1%} of matmul {part['copy']:6.1%} of copy  "
        f"{', '.join(against)}"
    ).rstrip()


def _peak_line(entry: Mapping[str, Any]) -> str:
    device = "" if entry["device"] is None else f", {entry['device'] / 1e6:.0f} MB on the device"
    return f"  {entry['title']:34s} {entry['host'] / 1e6:8.0f} MB on the host{device}"


def draw(measures: Sequence[Mapping[str, Any]], path: pathlib.Path, device: str) -> None:
    """Draw the images per second of every contender, one panel for each work, on scales of their own."""
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
    panels[-1].set_xlabel(f"images per second, {device}")
    plots.save(figure, path)
