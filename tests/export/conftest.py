"""A small network that was trained on digits, and the directory of a run."""

import pytest
from seeded import seeded
from tiny import TinyNet, digits

import jaxkd
from jaxkd import convert, optimizers, records


@pytest.fixture(scope="session")
def trainer():
    trainer = jaxkd.Trainer(TinyNet(width=16))
    trainer.compile(optimizers.sgd(0.1, momentum=0.9))
    trainer.fit(digits()[0], epochs=8, batch_size=64, verbose=0)
    return trainer


def saved(name, path):
    model = seeded(name)
    model.normalization = digits()[0].normalization
    convert.save(model, path)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run, as far as its records go, and its teacher."""
    folder = tmp_path_factory.mktemp("runs")
    saved("resnet14", folder / "teacher")
    saved("resnet8", folder / "kd" / "student")
    directory = records.RunDirectory(folder / "kd")
    settings = {
        "student": "resnet8",
        "seed": 3,
        "data": {"name": "digits"},
        "method": {"name": "kd", "weights": {"ce": 0.1, "kd": 0.9}, "settings": {"temperature": 4.0}},
        "teacher": {"name": "resnet14"},
        "training": {"name": "digits", "epochs": 2},
    }
    directory.start(settings, {"teacher": str(folder / "teacher")})
    logger, _ = directory.callbacks()
    logger.on_train_begin()
    history = jaxkd.History()
    for epoch, accuracy in enumerate((0.75, 0.5)):
        logs = {"loss": 1.0, "val_accuracy": accuracy, "val_top5": 1.0}
        logger.on_epoch_end(epoch, logs)
        history.append(epoch, logs)
    logger.on_train_end()
    facts = {"teacher": {"name": "resnet14", "accuracy": 0.875}}
    records.write_json(directory.result_file, records.summary(history) | facts)
    records.read(directory.path)  # as any reader of records has it
    return directory.path
