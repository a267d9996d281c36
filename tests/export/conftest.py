"""A small network that was trained on digits, and the directory of a run."""

import jax
import pytest
from flax import nnx
from seeded import seeded
from tiny import TinyNet, digits

import jaxkd
from jaxkd import Outputs, convert, optimizers, records
from jaxkd.nn.layers import Linear


class LittleNet(TinyNet):
    """As small, but good at digits: the classifier sees where on the map something is."""

    def __init__(self, width=16):
        super().__init__(width=width)
        self.fc = Linear(16 * width, 10, rngs=nnx.Rngs(1))

    def __call__(self, images, train=False):
        features = jax.nn.relu(self.bn(self.conv(images), train))
        flat = features.reshape(features.shape[0], -1)
        return Outputs(self.fc(flat), (features, flat))


@pytest.fixture(scope="session")
def trainer():
    trainer = jaxkd.Trainer(LittleNet())
    trainer.compile(optimizers.sgd(0.1, momentum=0.9))
    train, test = digits()
    trainer.fit(train, epochs=12, batch_size=64, verbose=0)
    assert trainer.evaluate(test)["accuracy"] > 0.9
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
