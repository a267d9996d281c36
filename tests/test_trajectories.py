"""Five steps of the engine end where five steps of the authors' training loops end."""

import json

import numpy as np
import pytest
from reference import GOLDENS, reference_model

import jaxkd
from jaxkd import losses, optimizers
from jaxkd.convert import to_state_dict

FOLDER = GOLDENS / "trajectories"
CASES = {case["method"]: case["params"] for case in json.loads((FOLDER / "index.json").read_text())["cases"]}
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
}


@pytest.mark.parametrize("method", TERMS)
def test_five_steps(method):
    case, golden, batches = CASES[method], np.load(FOLDER / f"{method}.npz"), np.load(FOLDER / "batches.npz")
    terms, weights = TERMS[method]
    distiller = jaxkd.Distiller(
        student=reference_model(case["student"], "student:"),
        teacher=reference_model(case["teacher"], "teacher:", logits_factor=8.0),
    )
    sgd = optimizers.sgd(case["lr"], momentum=case["momentum"], weight_decay=case["weight_decay"])
    distiller.compile(sgd, loss=terms, loss_weights=weights)
    images = batches["images_nchw"].transpose(0, 1, 3, 4, 2).astype(np.float32)
    steps = [[batch] for batch in zip(images, batches["labels"], batches["index"], strict=True)]
    # An epoch of one batch each, so that λ moves with every step as it does in the reference.
    found = [distiller.fit(step, epochs=1, verbose=0).last("loss") for step in steps]

    np.testing.assert_allclose(found, golden["loss_per_step"], rtol=1e-4)
    student = to_state_dict(distiller.student)
    finals = {key.removeprefix("student_final/"): golden[key] for key in golden if key.startswith("student_final/")}
    assert finals.keys() == {key for key in student if not key.endswith("num_batches_tracked")}
    for key, wanted in finals.items():
        assert np.abs(student[key] - wanted).max() <= 1e-3 * np.abs(wanted).max(), key
    if method == "ctkd":
        raw = distiller.state.params["losses"]["kd"]["temperature"]["raw"]
        np.testing.assert_allclose(raw, golden["raw_temperature_final"][0], rtol=1e-5)
        np.testing.assert_allclose(
            distiller.history.history["kd_temperature"], golden["temperature_per_step"], rtol=1e-6
        )
