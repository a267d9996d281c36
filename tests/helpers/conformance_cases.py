"""Every public loss and what is known of it, and a way to run any of them through the engine in a moment.

Student and teacher are networks whose weights are what they say: the gradient of a weight is the gradient of an output.
The optimizer changes nothing and keeps that gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxkd
from jaxkd import Batch, Outputs, losses
from jaxkd.data import Augmentation
from jaxkd.nn.layers import BatchNorm

B, K, LABELS = 4, 4, np.arange(8) % 2
SIZES = (4, 4, 2)  # of the maps of a stem and two stages
WIDTHS, OTHER_WIDTHS = (3, 3, 3), (2, 2, 2)  # of their channels


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      make: makes the loss.
      reads: the student's outputs to which its gradient flows.
      learns: its parameters.
      minimum: where student and teacher say the same: None, if it is 0 there; a function that makes the loss's
        parameters such that it is; or the reason why it is not.
      together: why it is not the mean over its examples, if so.
      alone: why an example alone teaches the student nothing, if so.
      two: why two classes teach the student nothing, if so.
      several: who is two networks in one, "student" or "teacher"; of teachers the second is told what to say.
    """

    make: Callable[[], losses.Loss]
    reads: str = "logits"
    learns: str = ""
    minimum: str | Callable[[Any], Any] | None = None
    together: str | None = None
    alone: str | None = None
    two: str | None = None
    several: str | None = None


def _asymmetric():
    return losses.ATS(correct=4.0, wrong=2.0)


def _identity(params):
    return {"regressor": {"kernel": jnp.eye(WIDTHS[-1]), "bias": jnp.zeros(WIDTHS[-1])}}


def _one_embedding(params):
    return dict.fromkeys(params, params["teacher_embedding"])


MLP = " ".join(f"temperature.{part}" for part in ("first", "first_bias", "second", "second_bias"))
REGRESSORS = " ".join(
    f"regressors.{i}.{part}" for i in range(2) for part in ("scale", *(f"layers.{j}.kernel" for j in range(3)))
)
CONNECTORS = " ".join(
    f"connectors.{i}.{part}" for i in range(2) for part in ("projection.kernel", "norm.scale", "norm.bias")
)
FUSIONS = " ".join(
    f"fusions.{i}.{part}"
    for i in range(3)
    for part in (
        "projection.kernel",
        "norm.scale",
        "norm.bias",
        "kernel",
        "out_norm.scale",
        "out_norm.bias",
        *(("attention.kernel", "attention.bias") if i < 2 else ()),
    )
)  # the deepest has none to attend to
HEADS = " ".join(f"{who}.head.{part}" for who in ("student", "teacher") for part in ("kernel", "bias"))
EMBEDDINGS = " ".join(f"{who}_embedding.{part}" for who in ("student", "teacher") for part in ("kernel", "bias"))

OTHER_SOFTENING = "the teacher alone is softened by class"
LABELS_TEACH = "the labels teach, whatever the teacher says"
ANSWERS_TEACH = "the teacher's answer teaches, however sure both are"
REGRESSED = "what it learns stands between student and teacher"
SIGNS = "two standardised logits are ±1/√2, whatever they were"
RELATIONS = "examples are compared with each other"
NORMALISED = "a feature is normalised over the batch"

TABLE = {
    "ce": Row(losses.CrossEntropy, minimum=LABELS_TEACH),
    "kd": Row(lambda: losses.KD(4.0)),
    "hard_label": Row(losses.HardLabel, minimum=ANSWERS_TEACH),
    "deit_soft": Row(lambda: losses.DeiT(losses.KD(3.0))),
    "deit": Row(losses.DeiT, minimum=ANSWERS_TEACH),
    "kd_std": Row(lambda: losses.KD(2.0, standardize=True), two=SIGNS),
    "kd_ctkd": Row(lambda: losses.KD(losses.CurriculumTemperature()), learns="temperature.raw"),
    "kd_ctkd_std": Row(
        lambda: losses.KD(losses.CurriculumTemperature(), standardize=True), learns="temperature.raw", two=SIGNS
    ),
    "kd_instance": Row(lambda: losses.KD(losses.InstanceTemperature(hidden=8)), learns=MLP),
    "kd_ats": Row(lambda: losses.KD(_asymmetric()), minimum=OTHER_SOFTENING),
    "ats": Row(_asymmetric, minimum=OTHER_SOFTENING),
    "ats_std": Row(lambda: losses.ATS(4.0, 2.0, standardize=True), minimum=OTHER_SOFTENING, two=SIGNS),
    "dkd": Row(losses.DKD),
    "dkd_std": Row(lambda: losses.DKD(standardize=True), two=SIGNS),
    "dkd_ctkd": Row(lambda: losses.DKD(temperature=losses.CurriculumTemperature()), learns="temperature.raw"),
    "mlkd": Row(
        lambda: losses.MLKD(standardize=True, strong_view=Augmentation(pad=2)),
        reads="logits strong",
        together=RELATIONS,
    ),
    "two_view_ce": Row(losses.TwoViewCrossEntropy, reads="logits strong", minimum=LABELS_TEACH),
    "from_teacher": Row(lambda: losses.FromTeacher(1, losses.KD(4.0)), several="teacher"),
    "tf_kd": Row(losses.TfKD, minimum=LABELS_TEACH),
    "dml": Row(losses.DML, reads="networks.0.logits networks.1.logits", minimum=LABELS_TEACH, several="student"),
    "dist": Row(losses.DIST, together="classes are correlated over the batch"),
    "fitnet": Row(losses.FitNet, reads="features.2", learns="regressor.kernel regressor.bias", minimum=_identity),
    "at": Row(losses.AT, reads="features.1 features.2"),
    "pkt": Row(losses.PKT, reads="features.3", together=RELATIONS, alone="it is its own only neighbour"),
    "sp": Row(losses.SP, reads="features.2", together=RELATIONS, alone="it is like itself and nothing else"),
    "vid": Row(losses.VID, reads="features.1 features.2", learns=REGRESSORS, minimum=REGRESSED),
    "rkd": Row(losses.RKD, reads="features.3", together=RELATIONS, alone="it has no distance and no angle to another"),
    "nst": Row(losses.NST, reads="features.1 features.2"),
    "cc": Row(
        losses.CC,
        reads="features.3",
        learns=EMBEDDINGS,
        minimum=_one_embedding,
        together=RELATIONS,
        alone="it has no neighbour",
    ),
    "ofd": Row(
        losses.OFD, reads="preactivations.1 preactivations.2", learns=CONNECTORS, minimum=REGRESSED, together=NORMALISED
    ),
    "reviewkd": Row(
        losses.ReviewKD,
        reads="features.1 features.2 features.3",
        learns=FUSIONS,
        minimum=REGRESSED,
        together=NORMALISED,
    ),
    "crd": Row(
        lambda: losses.CRD(LABELS, negatives=4, feature_dim=5),
        reads="features.3",
        learns=HEADS,
        minimum="each is compared with memories of the other",
        together="the first batch sets Z",
    ),
    "srrl": Row(
        losses.SRRL,
        reads="features.3",
        learns="projection.kernel norm.scale norm.bias",
        minimum=REGRESSED,
        together=NORMALISED,
        alone="normalised in a batch of one, every embedding is 0",
    ),
}


def said(seed, widths, classes=K, scale=1.0):
    """What a network with a stem and stages of these widths may say of B images, as its weights."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (scale * rng.standard_normal((B, *shape))).astype(np.float32)

    before = {i: draw(size, size, width) for i, (size, width) in enumerate(zip(SIZES, widths, strict=True))}
    after = {i: np.maximum(maps, 0) for i, maps in before.items()} | {len(before): draw(widths[-1])}
    return {"logits": draw(classes), "strong": draw(classes), "features": after, "preactivations": before}


class Told(nnx.Module):
    """Says what it was told of an image, whose pixels are the number of the example and of the view, 0 or 1."""

    def __init__(self, seed, widths, classes):
        told = jax.tree.map(jnp.asarray, said(seed, widths, classes))
        self.logits, self.strong = nnx.Param(told["logits"]), nnx.Param(told["strong"])
        self.features, self.preactivations = (
            nnx.List([nnx.Param(maps) for maps in told[kind].values()]) for kind in ("features", "preactivations")
        )
        rng = np.random.default_rng(seed)
        self.kernel = nnx.Variable(rng.standard_normal((widths[-1], classes)).astype(np.float32))
        self.widths, self.num_classes = widths, classes

    def __call__(self, images, train=False):
        row, view = images[:, 0, 0, 0].astype(jnp.int32), images[:, 0, 0, 1:]
        logits = jnp.where(view > 0, self.strong[row], self.logits[row])
        features, preactivations = (tuple(maps[row] for maps in kind) for kind in (self.features, self.preactivations))
        return Outputs(logits, features, preactivations, jax.tree_util.Partial(_classify, self.kernel[...]))

    def preactivation_norms(self):
        return tuple(BatchNorm(width) for width in self.widths)


class Several(nnx.Module):
    """Networks that say what each says, and have nothing in common."""

    def __init__(self, networks):
        self.networks = nnx.List(networks)

    def __call__(self, images, train=False):
        each = tuple(network(images) for network in self.networks)
        return Outputs(each[0].logits, each=each)


def _classify(kernel, embedding):
    return embedding @ kernel


KEEP = optax.GradientTransformation(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda gradients, state, params=None: (jax.tree.map(jnp.zeros_like, gradients), gradients),
)


QUICK = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}
"""Hardly anything is computed here: compiling takes all the time."""


class Found(NamedTuple):
    """What a step gave: the logs, and the gradients for what the loss learns and for the student's outputs."""

    logs: dict[str, jax.Array]
    learned: Any
    student: Any

    @property
    def value(self):
        return self.logs["term"]


class Case:
    """A loss of the table between two networks, as the engine takes a step with it."""

    def __init__(self, name, student=WIDTHS, classes=K, seed=0):
        self.name, self.row = name, TABLE[name]
        self.loss = self.row.make()
        ours, theirs = Told(1, student, classes), Told(2, WIDTHS, classes)
        if self.row.several == "student":
            ours = Several([ours, Told(4, student, classes)])
        elif self.row.several == "teacher":
            theirs = Several([Told(3, WIDTHS, classes), theirs])
        self.distiller = jaxkd.Distiller(student=ours, teacher=theirs)
        self.distiller.compile(KEEP, loss={"term": self.loss}, metrics=(), seed=seed, image_shape=(1, 1, 2))
        self.state = self.distiller.state
        self.traces = 0
        self.compiled = jax.jit(self.step, compiler_options=QUICK)

    def step(self, state, rows):
        """The state after a step with the examples of these rows, and what was found."""
        self.traces += 1
        weak, strong = (
            jnp.stack([rows, jnp.full_like(rows, view)], -1).astype(jnp.float32)[:, None, None, :] for view in (0, 1)
        )
        batch = Batch(weak, jnp.asarray(LABELS, jnp.int32)[rows], rows, strong)
        after, logs = self.distiller.step(state, batch)
        return after, Found(logs, after.opt_state["losses"], after.opt_state["model"])

    def told(self, student=None, teacher=None, learned=None):
        """The state in which the networks say this and the loss has learned that."""
        if self.row.several == "student" and student:
            student = {"networks": {0: student, 1: jax.tree.map(lambda rows: rows[::-1], student)}}
        params = {
            "model": student or self.state.params["model"],
            "losses": {"term": learned} if learned else self.state.params["losses"],
        }
        says = self.state.teacher
        if self.row.several == "teacher":
            networks = says["networks"]
            says = says | {"networks": networks | {1: networks[1] | (teacher or {})}}
        else:
            says = says | (teacher or {})
        return replace(self.state, params=params, teacher=says)

    def __call__(self, rows=range(B), **told):
        """What a step with these examples finds."""
        return self.compiled(self.told(**told), jnp.array(rows))[1]


def dotted(tree):
    """Leaves by path."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def largest(tree):
    return max((float(np.abs(np.asarray(leaf, np.float32)).max()) for leaf in jax.tree.leaves(tree)), default=0.0)
