"""Measures how good a trained network is: accuracy, top-5, cross-entropy, and whether its confidence is right."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxkd
from jaxkd import analysis, data, losses, metrics
from jaxkd.callbacks.terminal import fitted
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.commands import network
from jaxkd.commands.run import check_classes, parameters
from jaxkd.formats.files import check_file
from jaxkd.records import write_json

EXAMPLES = """examples:
  the student of a run, on the test images of its data:
    jaxkd evaluate runs/kd
  a file of weights on CIFAR-100:
    jaxkd evaluate cifar100_resnet56.pth --data cifar100 --data-dir ~/data
  on the images it was trained with, into a file:
    jaxkd evaluate runs/kd --split train --output kd-train.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        if options.output is not None:
            check_file(options.output)
        trained = network.load(options)
        images = network.images_of(options, trained.record, options.split)
        check_classes(trained.model, images, "the network")
        found = measured(trained.model, images, options.batch_size)
    except (ValueError, TypeError, OSError, ImportError) as error:
        parser.error(" ".join(str(error).split()))
    own = getattr(trained.model, "normalization", None)
    facts = {
        "network": trained.model.name,
        "weights": str(trained.path),
        "parameters": parameters(trained.model),
        "data": images.name,
        "split": options.split,
        "normalization": [list(values) for values in own or images.normalization],
        **found,
    }
    print(json.dumps(facts, indent=2) if options.json else fitted(described(facts, own is not None), sys.stdout))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.output, facts)
    return 0


def measured(model: Any, images: network.Images, batch_size: int = 256) -> dict[str, Any]:
    """Return what `Trainer.evaluate` does, and the expected calibration error in 15 bins (Guo et al., ICML 2017).

    Images that cannot be read count for nothing.
    """
    logits = jaxkd.Trainer(model).predict(images, batch_size=batch_size)
    streamed = isinstance(images, data.StreamedDataset)
    readable = ~np.isnan(logits).all(axis=1) if streamed else np.ones(len(logits), bool)
    if not readable.any():
        raise ValueError(f"none of the {len(images):,} images of {images.name} can be measured: its logits are NaN")
    values, labels = logits[readable], np.asarray(images.labels)[readable]
    on_device = jnp.asarray(values), jnp.asarray(labels)
    calibration = analysis.reliability(values, labels)
    return {
        "images": len(values),
        "accuracy": float(metrics.accuracy(*on_device).mean()),
        "top5": float(metrics.top_k(5)(*on_device).mean()),
        "loss": float(losses.cross_entropy(*on_device).mean()),
        "ece": calibration.ece,
        "over_confidence": calibration.over_confidence,
    }


def described(facts: dict[str, Any], own: bool) -> str:
    """Return what was measured, a line each."""
    sure = f"{abs(facts['over_confidence']):.2%} too {'sure' if facts['over_confidence'] > 0 else 'unsure'} on average"
    by = "the network's own normalisation" if own else "the normalisation of the data, since the network knows none"
    return "\n".join(
        [
            f"network   {facts['network']}, {facts['parameters']:,} parameters, from {facts['weights']}",
            f"data      {facts['data']}, {facts['images']:,} {facts['split']} images, by {by}",
            f"accuracy  {facts['accuracy']:.2%}",
            f"top-5     {facts['top5']:.2%}",
            f"loss      {facts['loss']:.4f}  (cross-entropy)",
            f"ECE       {facts['ece']:.2%}  (gap between confidence and accuracy; {sure})",
        ]
    )


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("evaluate"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    network.add_options(parser)
    network.add_data_options(parser)
    parser.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="default: 256")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="also write what was measured, as JSON")
    return parser
