"""Publish a run's network on the Hugging Face Hub, with a card that its record writes: `pip install "jaxkd[hub]"`."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxkd import recipes, records
from jaxkd.export.source import Classifier
from jaxkd.export.written import write
from jaxkd.formats.files import endpoint
from jaxkd.libraries import needed
from jaxkd.records import Record

WEIGHTS = "student.safetensors"
"""The name of the file of weights in the repository."""


def push_to_hub(
    run: str | os.PathLike[str] | Record, repository: str, *, private: bool = False, token: str | None = None
) -> str:
    """Upload a run's network, a card and its settings to a repository, which is made where there is none.

    The repository gets `student.safetensors`, checked as `write` does, `README.md` with method, teacher, data, seed,
    last and best accuracy, and `config.json` with the settings. Paths, commands and the machine's name stay here.

    Args:
      run: the directory of a finished run, or its record.
      repository: `user/repo`.
      private: whether a new repository is private.
      token: of the hub; None takes the one that `hf auth login` or `$HF_TOKEN` left.

    Returns:
      The address of the commit.

    Raises:
      FileNotFoundError: there is no run, or it has no network yet.
      ImportError: the library is not installed.
      ValueError: the repository's name is malformed; the network is not of the zoo, or its normalisation is not known.

    Errors of the hub itself are the library's.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r}: name the repository as user/repo")
    library = needed("huggingface_hub", "hub", "push_to_hub")
    record = run if isinstance(run, Record) else records.read(run)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = write(record, folder / WEIGHTS).classifier
        (folder / "README.md").write_text(model_card(record, network, repository), encoding="utf-8")
        records.write_json(folder / "config.json", _config(record, network))
        hub = library.HfApi(endpoint=endpoint(), token=token)
        hub.create_repo(repository, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"{network.name}, trained with jaxkd"
        )
    return str(commit.commit_url)


def model_card(record: Record, network: Classifier, repository: str) -> str:
    """Return a run's card in Markdown, with the metadata that the hub reads at its head.

    Args:
      record: of the run.
      network: what `write` exported of it.
      repository: where it will be, `user/repo`.
    """
    rows = {name: text for name, text in _facts(record, network).items() if text}
    weights = "the last one" if record.weights_epoch is None else f"epoch {record.weights_epoch}"
    taught = f", distilled from {record.teacher['name']}" if record.teacher and record.teacher.get("name") else ""
    return f"""---
library_name: jaxkd
pipeline_tag: image-classification
tags:
- image-classification
- knowledge-distillation
- jax
---

# {network.name}{taught}

| | |
|---|---|
{chr(10).join(f"| {name} | {text} |" for name, text in rows.items())}

The best epoch was chosen on the test images, which makes its accuracy a little too high; the weights are those of
{weights}.

```python
from jaxkd import Trainer, convert

model = convert.from_torch("hf://{repository}/{WEIGHTS}")
logits = Trainer(model).predict(images)  # uint8 pixels [N, H, W, C]; the file knows the normalisation
```
"""


def _facts(record: Record, network: Classifier) -> dict[str, str]:
    """Return the rows of a card; empty where a record does not say."""
    teacher, method = record.teacher or {}, record.settings.get("method")
    taught_by = str(teacher.get("name") or "")
    if record.teacher_accuracy is not None:
        taught_by += f", top-1 {record.teacher_accuracy:.2%} on the test images"
    macs = f"{network.macs / 1e6:,.1f}"
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in network.normalization)
    facts = {
        "network": f"{network.name}, {network.parameters:,} parameters, {macs} M multiply-accumulates",
        "method": _method(record.method, method if isinstance(method, Mapping) else {}),
        "teacher": taught_by,
        "data": f"{record.data or ''}, images {'×'.join(map(str, network.image_shape))}".removeprefix(", "),
        "normalisation": f"pixels / 255, mean {mean}, std {std}",
        "epochs": "" if record.epochs is None else str(record.epochs),
        "seed": "" if record.seed is None else str(record.seed),
    }
    if record.measured:
        facts |= {"last epoch": _accuracies(record.last), "best epoch": _accuracies(record.best)}
    if record.published is not None:
        kept = "" if record.published.as_published else "; this run differs from it"
        facts["published"] = (
            f"top-1 {record.published.accuracy:.2%}, {record.published.reported} epoch, {record.published.paper}{kept}"
        )
    return facts


def _method(name: str | None, described: Mapping[str, Any]) -> str:
    if name is None:
        return "labels alone"
    values = {**described.get("weights", {}), **described.get("settings", {})}
    known = recipes.get_method(name) if name in recipes.methods() else None
    title = name if known is None else f"{known.title} ({known.paper})"
    return ", ".join([title, *(f"{key} {value:g}" for key, value in values.items() if isinstance(value, int | float))])


def _accuracies(epoch: Mapping[str, Any]) -> str:
    parts = [f"{epoch['epoch']}"]
    for name, key in (("top-1", "val_accuracy"), ("top-5", "val_top5")):
        if epoch.get(key) is not None:
            parts.append(f"{name} {epoch[key]:.2%}")
    return ", ".join(parts)


def _config(record: Record, network: Classifier) -> dict[str, Any]:
    epochs = {"last": dict(record.last), "best": dict(record.best)} if record.measured else {}
    return {
        "architecture": network.name,
        "jaxkd": version("jaxkd"),
        "settings": dict(record.settings),
        **epochs,
        "weights": WEIGHTS,
    }
