"""Runs that are killed again and again, and what they must not lose; a process of its own each time."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
from tiny import TinyNet, digits, leaves, reproducible

import jaxkd
from jaxkd import callbacks, data, losses, optimizers
from jaxkd.data.transforms.resized_crop import RandomResizedCrop, ResizedCentreCrop

EXAMPLES, BATCH_SIZE, EPOCHS = 72, 16, 6
RUNS = ("resident-ctkd", "resident-crd", "streamed-ctkd", "streamed-crd")


def examples(kind):
    """`(train, test)`, the digits in memory or read image by image."""
    train, test = digits()
    train, test = train.subset(EXAMPLES), test.subset(32)
    if kind == "resident":
        return train, test
    views = {"augmentation": RandomResizedCrop(32), "view": ResizedCentreCrop(36, 32)}
    return tuple(
        data.StreamedDataset(list(zip(part.images, part.labels, strict=True)), part.class_names, workers=0, **views)
        for part in (train, test)
    )


def method(name, labels):
    """Loss terms that learn a temperature, or remember embeddings."""
    temperature = losses.CurriculumTemperature()
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(temperature)}
    return terms | ({"crd": losses.CRD(labels, negatives=8, feature_dim=8)} if name == "crd" else {})


def train(run, folder, pause):
    """Trains to the end, or until it is killed, going on from what is there; prints `saved STEP` after each save."""
    folder = pathlib.Path(folder)
    kind, name = run.split("-")
    images, test = examples(kind)
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1))
    sgd = optimizers.sgd(optimizers.step_decay(0.1, drops=(2, 4)), momentum=0.9)
    terms = method(name, digits()[0].labels[:EXAMPLES])
    distiller.compile(sgd, loss=terms, seed=3, steps_per_execution=1)

    def tell(*_):
        print("saved", distiller.last_steps_start + 1, flush=True)
        time.sleep(pause)

    hooks = [callbacks.Checkpoint(folder / "checkpoints", every_steps=1)]
    hooks += [callbacks.LambdaCallback(on_train_batch_end=tell)]
    history = distiller.fit(images, test, epochs=EPOCHS, batch_size=BATCH_SIZE, callbacks=hooks, resume="auto")
    np.savez(folder / "end.npz", *leaves(distiller.state), history=json.dumps(reproducible(history)))


def start(run, folder, pause=0.0):
    script = f"import killed_runs; killed_runs.train({run!r}, {str(folder)!r}, {pause})"
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes)


def end(run, folder):
    """The end of a run that is left alone, from whatever is in its folder."""
    process = start(run, folder)
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return dict(np.load(folder / "end.npz")), output


def kill(run, folder, seconds, pause):
    """Starts a run, kills it some seconds after its first step, and gives the steps it had on disk before and after.

    Returns:
      The step it went on from, the last step it said it had saved, and whether it came to an end before the kill.
    """
    with start(run, folder, pause) as process:  # which closes its pipes
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("saved"):
                break
        timer = threading.Timer(seconds, process.send_signal, [signal.SIGKILL])
        timer.start()
        lines += process.stdout.readlines()
        code = process.wait(60)
        timer.cancel()
        assert code in (0, -signal.SIGKILL), process.stderr.read()
    return resumed_step(lines), saved_step(lines), code == 0


def resumed_step(lines):
    found = [re.search(r"resuming after epoch \d+ and step (\d+)", line) for line in lines]
    return max((int(match[1]) for match in found if match), default=0)


def saved_step(lines):
    return max((int(line.split()[1]) for line in lines if line.startswith("saved ")), default=0)
