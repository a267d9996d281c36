"""Five steps of the engine end where five steps of the authors' training loops end."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from reference import GOLDENS, golden, reference_model
from sweeps import sweep

import jaxkd
from jaxkd import losses, optimizers
from jaxkd.convert import to_state_dict
from jaxkd.losses.crd import CRD
from jaxkd.losses.vid import VID

FOLDER = GOLDENS / "trajectories"
CASES = {case["method"]: case["params"] for case in json.loads((FOLDER / "index.json").read_text())["cases"]}
BATCHES = np.load(FOLDER / "batches.npz")


class GivenNegatives(CRD):
    """Draws at each step what the reference drew."""

    def __init__(self, negatives, **options):
        super().__init__(negatives=negatives.shape[-1], **options)
        self.given, self.steps = nnx.Variable(jnp.asarray(negatives, jnp.int32)), nnx.Variable(jnp.int32(0))

    def draw(self, batch, key):
        drawn = self.given[...][self.steps[...]]
        self.steps[...] += 1
        return jnp.concatenate([batch.index[:, None], drawn], axis=1)


def crd_of_the_reference():
    """With the labels of the examples that the batches show; classes of the others play no part."""
    params, labels = CASES["crd"], np.zeros(CASES["crd"]["n_data"], np.int32)
    labels[BATCHES["index"]] = BATCHES["labels"]
    options = {"temperature": params["nce_t"], "momentum": params["nce_m"], "feature_dim": params["feat_dim"]}
    return GivenNegatives(BATCHES["contrast_negatives"], labels=labels, **options)


def vid_extras(golden, prefix):
    """What the reference's regressors learn, as ours name it: parameters, and no other variables."""

    def regressor(i):
        kernels = [golden[f"{prefix}_{i}.regressor.{2 * layer}.weight"][:, :, 0, 0].T for layer in range(3)]
        layers = {layer: {"kernel": kernel} for layer, kernel in enumerate(kernels)}
        return {"layers": layers, "scale": golden[f"{prefix}_{i}.log_scale"]}

    return {"regressors": {i: regressor(i) for i in range(3)}}, {}


def crd_extras(golden, prefix):
    """What the reference's heads learn and its memories keep."""
    sides = {"student": ("embed_s", "memory_v1"), "teacher": ("embed_t", "memory_v2")}
    learned, kept = {}, {}
    for side, (head, memory) in sides.items():
        weight, bias = (golden[f"{prefix}_{head}.linear.{part}"] for part in ("weight", "bias"))
        learned[side] = {"head": {"kernel": weight.T, "bias": bias}}
        kept[side] = {"memory": golden[f"{prefix}_{memory}"]}
    return learned, kept


EXTRAS = {"vid": vid_extras, "crd": crd_extras}
TERMS = {
    "kd": ({"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=4.0)}, {"ce": 0.1, "kd": 0.9}),
    "ats": ({"ce": losses.CrossEntropy(), "kd": losses.ATS(correct=4.0, wrong=2.0)}, {"ce": 0.5, "kd": 0.5}),
    "ctkd": (
        {
            "ce": losses.CrossEntropy(),
            "kd": losses.KD(temperature=losses.CurriculumTemperature(curriculum=lambda epoch: -epoch / 5)),
        },
        {"ce": 0.1, "kd": 0.9},
    ),
    "vid": (
        {"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=4.0), "vid": VID()},
        {"ce": 0.1, "kd": 0.9, "vid": 1.0},
    ),
    "crd": (
        {"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=4.0), "crd": crd_of_the_reference()},
        {"ce": 0.1, "kd": 0.9, "crd": 0.8},
    ),
}


def put(tree, values):
    """A tree of dictionaries with some of its leaves replaced."""
    return {
        key: part if key not in values else put(part, values[key]) if isinstance(part, dict) else jnp.array(values[key])
        for key, part in tree.items()
    }


def start_from(state, term, learned, kept):
    """The state with given initial values of what one of the terms learns and keeps."""
    return replace(
        state,
        params=put(state.params, {"losses": {term: learned}}),
        variables=put(state.variables, {"losses": {term: kept}}),
    )


def assert_close(found, wanted, tolerance, where=""):
    """Every wanted leaf is found, to a tolerance relative to its largest element."""
    for key, value in wanted.items():
        if isinstance(value, dict):
            assert_close(found[key], value, tolerance, f"{where}.{key}")
        else:
            assert np.abs(found[key] - value).max() <= tolerance * np.abs(value).max(), f"{where}.{key}"


@sweep("method", TERMS, core=["ctkd"], thorough=["kd", "ats", "crd"])
def test_five_steps(method):
    case, final, batches = CASES[method], golden(f"trajectories/{method}"), BATCHES
    terms, weights = TERMS[method]
    distiller = jaxkd.Distiller(
        student=reference_model(case["student"], "student:"),
        teacher=reference_model(case["teacher"], "teacher:", logits_factor=8.0),
    )
    sgd = optimizers.sgd(case["lr"], momentum=case["momentum"], weight_decay=case["weight_decay"])
    distiller.compile(sgd, loss=terms, loss_weights=weights)
    if method in EXTRAS:
        distiller.state = start_from(distiller.state, method, *EXTRAS[method](final, "extra"))
    images = batches["images_nchw"].transpose(0, 1, 3, 4, 2).astype(np.float32)
    steps = [[batch] for batch in zip(images, batches["labels"], batches["index"], strict=True)]
    # An epoch of one batch each, so that λ moves with every step as it does in the reference.
    found = [distiller.fit(step, epochs=1, verbose=0).last("loss") for step in steps]

    np.testing.assert_allclose(found, final["loss_per_step"], rtol=1e-4)
    student = to_state_dict(distiller.student)
    finals = {key.removeprefix("student_final/"): final[key] for key in final if key.startswith("student_final/")}
    assert finals.keys() == {key for key in student if not key.endswith("num_batches_tracked")}
    assert_close(student, finals, 1e-3)
    if method in EXTRAS:
        learned, kept = EXTRAS[method](final, "extra_final")
        assert_close(distiller.state.params["losses"][method], learned, 1e-3)
        assert_close(distiller.state.variables["losses"].get(method, {}), kept, 1e-3)
    if method == "ctkd":
        raw = distiller.state.params["losses"]["kd"]["temperature"]["raw"]
        np.testing.assert_allclose(raw, final["raw_temperature_final"][0], rtol=1e-5)
        np.testing.assert_allclose(
            distiller.history.history["kd_temperature"], final["temperature_per_step"], rtol=1e-6
        )
