"""Run directories as training leaves them, without the training."""

import numpy as np
from seeded import HALF, seeded

from jaxkd import convert, records

SETTINGS = {
    "data": {"name": "digits", "images": 1437, "normalization": {"mean": [0.3] * 3, "std": [0.4] * 3}},
    "seed": 0,
    "precision": "float32",
    "training": {"name": "digits", "epochs": 4, "batch_size": 40, "drops": [2, 3], "reported": "last"},
    "method": {"name": "kd", "weights": {"ce": 0.1, "kd": 0.9}, "settings": {"temperature": 4.0}},
    "student": "resnet8",
    "teacher": {"name": "resnet14", "sha256": "0b48a688325d142954688f7a98752e2293661baa0a2a38122ab269542dc73963"},
}

RECIPE = {
    "name": "kd/resnet56-resnet20", "accuracy": 0.7066, "deviation": None, "reported": "last",
    "paper": "Tian et al.", "table": "one style", "as_published": False,
}  # fmt: skip


def logs(accuracy, epoch):
    """What training measured in an epoch, counted from 1."""
    return {
        "loss": 4.0 / epoch,
        "ce": 2.0 / epoch,
        "kd": 1.0 / epoch,
        "accuracy": 0.9 * accuracy,
        "kd_temperature": 15.0 - epoch,
        "kd_lambda": -0.1 * epoch,
        "learning_rate": 0.05 * 0.1 ** (epoch // 3),
        "images_per_second": 200.0,
        "val_loss": 1.0 / epoch,
        "val_accuracy": accuracy,
    }


def run(path, accuracies=(0.5, 0.75, 0.8, 0.7), finished=True, facts=(), averaged=(), arguments=(), **settings):
    """Writes a run with these test accuracies, and those of its averaged weights, and gives back its record."""
    directory = records.RunDirectory(path)
    directory.start({**SETTINGS, **settings}, {"output": str(path), **dict(arguments)})
    logger, _ = directory.callbacks()
    logger.on_train_begin()
    history = records.read(path).history
    for epoch, accuracy in enumerate(accuracies):
        measured = logs(np.float32(accuracy), epoch + 1)
        if averaged:
            measured["val_ema_accuracy"] = averaged[epoch]
        logger.on_epoch_end(epoch, measured)
        history.append(epoch, measured)
    if finished:
        teacher = {**(settings.get("teacher", SETTINGS["teacher"]) or {}), "accuracy": 0.9833}
        result = {**records.summary(history), "seed": settings.get("seed", 0), "teacher": teacher, **dict(facts)}
        records.write_json(directory.result_file, result)
    return records.read(path)


def with_student(path, **settings):
    """Writes a run with its student, a resnet8, and gives back both."""
    model = seeded("resnet8")
    model.normalization = HALF
    convert.save(model, path / "student")
    return run(path, **settings), model


def alone(path, accuracies=(0.5, 0.6, 0.7, 0.6), **settings):
    """Writes a run of the student without a teacher."""
    method = {"name": "ce", "weights": {"ce": 1.0}, "settings": {}}
    return run(path, accuracies, facts={"teacher": None}, method=method, teacher=None, **settings)


def grid(path, correct=(1.0, 2.0), wrong=(1.0, 2.0, 3.0), seeds=2):
    """Writes a sweep over two temperatures as ats_grid.py does; the accuracies rise with both."""
    path.mkdir(parents=True)
    config = {**SETTINGS, "correct": correct, "wrong": wrong, "seeds": seeds}
    records.write_json(path / "config.json", {"settings": config, "arguments": {}, **records.environment()})
    lines = ["seed,correct,wrong,epoch,loss,val_accuracy"]
    for seed in range(seeds):
        for one in correct:
            for other in wrong:
                for epoch in (1, 2):
                    accuracy = 0.5 + 0.01 * one + 0.05 * other + 0.02 * seed + 0.1 * epoch
                    lines.append(f"{seed},{one},{other},{epoch},{2.0 / epoch},{accuracy}")
    (path / "grid.csv").write_text("\n".join(lines) + "\n")
    return records.read_sweep(path)
