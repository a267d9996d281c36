"""`keras.distillation.Distiller` on Keras's JAX back end, on a CIFAR ResNet written in Keras's layers."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any

import jax
import numpy as np

from benchmarks.work import RECIPE, SEEDS, Contender, UnavailableError, Work, cores, passes_of, timed


def contender(work: Work) -> Contender:
    """Return a pass of `fit` over normalised float32 images in their order.

    Raises:
      UnavailableError: Keras is not installed or too old, runs on another back end, or the networks are not ResNets.
    """
    keras = installed()
    keras.utils.set_random_seed(SEEDS.student)
    student, teacher = (create(keras, name, work.num_classes) for name in (work.student, work.teacher))
    distiller = keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(temperature=RECIPE.temperature),
        student_loss_weight=RECIPE.ce_weight,
    )
    distiller.compile(
        optimizer=keras.optimizers.SGD(
            RECIPE.learning_rate, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    mean, std = (np.asarray(values, np.float32) for values in (RECIPE.mean, RECIPE.std))
    images = (work.images.astype(np.float32) / 255 - mean) / std
    run = timed(lambda: distiller.fit(images, work.labels, work.batch_size, epochs=1, shuffle=False, verbose=0))
    device = jax.devices()[0]
    threads = cores() if device.platform == "cpu" else None
    facts = {"device": device.device_kind, "threads": threads, "convolutions": "XLA"}
    return Contender(run, "float32", passes_of(work), facts)


def installed() -> Any:
    """Return Keras, on JAX.

    Raises:
      UnavailableError: where it cannot be had.
    """
    if importlib.util.find_spec("keras") is None:
        raise UnavailableError("keras is not installed")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise UnavailableError(f"KERAS_BACKEND is {keras.backend.backend()}, not jax")
    if not hasattr(keras, "distillation"):
        raise UnavailableError(f"keras {keras.__version__} has no keras.distillation, which came with 3.12")
    return keras


def create(keras: Any, name: str, num_classes: int = 100) -> Any:
    """Return a CIFAR ResNet by name (He et al. 2016).

    Raises:
      UnavailableError: for another network.
    """
    match = re.fullmatch(r"resnet(\d+)", name)
    if match is None or int(match[1]) % 6 != 2:
        raise UnavailableError(f"the Keras side has resnet8 … resnet110, not {name}")
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    out = layers.ReLU()(normalized(layers, convolution(layers, 16)(inputs)))
    for width in (16, 32, 64):
        for position in range((int(match[1]) - 2) // 6):
            out = block(layers, out, width, stride=2 if position == 0 and width > 16 else 1)
    out = layers.Dense(num_classes)(layers.GlobalAveragePooling2D()(out))
    return keras.Model(inputs, out)


def block(layers: Any, inputs: Any, width: int, stride: int) -> Any:
    """Return two 3×3 convolutions and a shortcut."""
    out = layers.ReLU()(normalized(layers, convolution(layers, width, stride=stride)(inputs)))
    out = normalized(layers, convolution(layers, width)(out))
    if stride != 1 or inputs.shape[-1] != width:
        inputs = normalized(layers, convolution(layers, width, window=1, stride=stride)(inputs))
    return layers.ReLU()(layers.Add()([out, inputs]))


def convolution(layers: Any, width: int, window: int = 3, stride: int = 1) -> Any:
    """Return a convolution that keeps the size at stride 1."""
    return layers.Conv2D(
        width,
        window,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        data_format="channels_last",
    )


def normalized(layers: Any, images: Any) -> Any:
    """Return BatchNorm as PyTorch has it."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(images)
