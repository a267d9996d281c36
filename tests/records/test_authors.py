"""The published logs of the authors of logit standardisation, and what is inferred from them."""

import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from flax import nnx

from jaxkd import Batch, Outputs, Progress, analysis, convert, data, losses, recipes, records
from jaxkd.training import program

ROOT = pathlib.Path(__file__).parents[2]
LOGS = ROOT / "experiments" / "results" / "authors"
FOUR_EPOCHS = ROOT / "experiments" / "results" / "cpu" / "four-epochs"
CTKD = LOGS / "CTKD-ctkd_resnet56_resnet20_2_9.csv"
NAME = "KD-kd_resnet56_resnet20_2_9.csv"
TEACHERS = {"resnet20": 0.72, "resnet32": 0.78, "resnet56": 0.91}


def written(folder, text, name=NAME):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Reading


def test_a_log_has_our_names_and_parts_of_one():
    log = records.read_log(str(LOGS / NAME))
    assert (log.method, log.teacher, log.student, log.pair) == ("kd+std", "resnet56", "resnet20", "resnet56-resnet20")
    assert (log.base_temperature, log.weight, log.beta, log.data, log.earlier) == (2.0, 9.0, None, "cifar100", ())
    history = log.history.history
    assert list(history) == ["learning_rate", "accuracy", "loss", "val_accuracy", "val_top5", "val_loss"]
    assert log.history.epoch == list(range(240))
    assert {name: values[0] for name, values in history.items()} == {
        "learning_rate": 0.05, "accuracy": 0.0926, "loss": 6.84, "val_accuracy": 0.172, "val_top5": 0.4473,
        "val_loss": 3.42,
    }  # fmt: skip
    assert log.history.last("val_accuracy") == 0.7137
    ctkd = records.read_log(CTKD)
    assert ctkd.history.history["kd_temperature"][:3] == [28.3871, 18.2759, 2.0462]
    assert ctkd.history.history["kd_lambda"][9] == -1.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("KD-kd_wrn_40_2_wrn_16_2_2_9", ("kd+std", "wrn_40_2", "wrn_16_2", 2.0, 9.0, None, "cifar100")),
        ("KD-kd_ResNet50_MobileNetV2_3_1", ("kd+std", "ResNet50", "MobileNetV2", 3.0, 1.0, None, "cifar100")),
        ("CTKD-ctkd_resnet32x4_wrn_40_2_2_9", ("ctkd+std", "resnet32x4", "wrn_40_2", 2.0, 9.0, None, "cifar100")),
        ("DKD-dkd_wrn_40_2_resnet8x4_2_18_2.0", ("dkd+std", "wrn_40_2", "resnet8x4", 2.0, 18.0, 2.0, "cifar100")),
        ("DKD-dkd_resnet32x4_ShuffleV2_2_9", ("dkd+std", "resnet32x4", "ShuffleV2", 2.0, 9.0, None, "cifar100")),
        ("MLKD-mlkd_res50_mv2_2_9", ("mlkd+std", "ResNet50", "MobileNetV2", 2.0, 9.0, None, "cifar100")),
        ("MLKD-mlkd_res110_res32_2_9", ("mlkd+std", "resnet110", "resnet32", 2.0, 9.0, None, "cifar100")),
        ("imagenet-r34_r18_kd_ours", ("kd+std", "resnet34", "resnet18", None, None, None, "imagenet2012")),
        ("imagenet-r34_r18_kd_ours_2_6", ("kd+std", "resnet34", "resnet18", 2.0, 6.0, None, "imagenet2012")),
        (
            "transformer-deit-ti_c100_KD_ours_3_10",
            ("kd+std", "resnet56", "deit_tiny_patch16_224", 3.0, 10.0, None, "cifar100"),
        ),
        ("transformer-t2t-7_c100_KD_ours", ("kd+std", "resnet56", "t2t_vit_7", None, None, None, "cifar100")),
    ],
)
def test_a_name_says_what_was_run(tmp_path, name, said):
    log = records.read_log(written(tmp_path, "epoch,test_acc\n1,2\n", f"{name}.csv"))
    found = (log.method, log.teacher, log.student, log.base_temperature, log.weight, log.beta, log.data)
    assert found == said
    assert log.method in recipes.methods()


def test_of_two_runs_in_a_file_the_last_counts(tmp_path):
    log = records.read_log(written(tmp_path, "epoch,test_acc\n1,2\n2,3\n\n3,4\n1,5\n2,6\n"))
    assert log.history.to_dict() == {"epoch": [0, 1], "history": {"val_accuracy": [0.05, 0.06]}}
    assert [earlier.history["val_accuracy"] for earlier in log.earlier] == [[0.02, 0.03, 0.04]]


MALFORMED = [
    ("", r"line 1, column 'epoch': there is no such column"),
    ("test_acc\n1\n", r"line 1, column 'epoch': there is no such column"),
    ("epoch,acc\n1,1\n", r"line 1, column 'acc': such a column is not known; there are epoch, lr, train_acc"),
    ("epoch,lr,lr\n1,1,1\n", r"line 1, column 'lr': the column is there twice"),
    ("epoch,test_acc\n", r"has no epochs: copy it anew"),
    ("epoch,lr,test_acc\n1,0.05,17.2\n2,0.05\n", r"line 3, column 'test_acc': 2 values for 3 columns"),
    ("epoch,test_acc\n1,17.2,9\n", r"line 2, column 'test_acc': 3 values for 2 columns"),
    ("epoch,test_acc\n1,much\n", r"line 2, column 'test_acc': 'much' is not a number"),
    ("epoch,test_acc\n1,\n", r"line 2, column 'test_acc': '' is not a number"),
    ("epoch,test_acc\n\n1,101\n", r"line 3, column 'test_acc': 101 must be from 0 to 100"),
    ("epoch,train_loss\n1,nan\n", r"line 2, column 'train_loss': nan must be finite"),
    ("epoch,temperature\n1,-2\n", r"line 2, column 'temperature': -2 must be from 0"),
    ("epoch,test_acc\n2,1\n", r"line 2, column 'epoch': epoch 2 comes after epoch 0"),
    ("epoch,test_acc\n1,1\n3,1\n", r"line 3, column 'epoch': epoch 3 comes after epoch 1"),
    ("epoch,test_acc\n1,1\n1.5,1\n", r"line 3, column 'epoch': epoch 1\.5 comes after epoch 1"),
    ("epoch,test_acc\n0,1\n", r"line 2, column 'epoch': 0 must be from 1"),
    (b"epoch,test_acc\n1,\xff\n", r"2_9\.csv is not a table: 'utf-8'"),
]


@pytest.mark.parametrize(("text", "message"), MALFORMED)
def test_what_is_malformed_is_named_by_file_line_and_column(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        records.read_log(written(tmp_path, text))
    assert str(tmp_path / NAME) in str(caught.value)


@pytest.mark.parametrize("name", ["log.csv", "KD-kd_resnet56_2_9.csv", "KD-kd_resnet56_resnet20_2.csv"])
def test_a_name_that_says_too_little_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"the name does not say what was run; it must be as KD-kd_resnet56_resnet20"):
        records.read_log(written(tmp_path, "epoch,test_acc\n1,2\n", name))


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv is not a file"):
        records.read_log(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match=r"is not a file: .* or give a folder to records.find_logs"):
        records.read_log(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no logs of the authors"):
        records.find_logs(tmp_path)


def test_the_committed_logs_are_read():
    logs = records.find_logs(LOGS)
    counted = {
        method: sum(log.method == method for log in logs) for method in dict.fromkeys(log.method for log in logs)
    }
    assert counted == {"ctkd+std": 7, "dkd+std": 7, "kd+std": 7, "mlkd+std": 5}
    for log in logs:
        recipe = recipes.get(f"{log.method}/{log.pair}")  # their pairs are known here by the same names
        assert len(log.history.epoch) == recipe.training.epochs
        assert recipe.published.accuracy == pytest.approx(100 * log.history.best("val_accuracy")[1], abs=0.8), log.path
    assert sum(log.path.stat().st_size for log in logs) < 300_000


def test_every_published_log_is_read(shared):
    logs = records.find_logs(shared / "logs")
    assert len(logs) == 59
    twice = [log.path.name for log in logs if log.earlier]
    assert twice == [f"CTKD-ctkd_resnet32x4_{student}_2_9.csv" for student in ("ShuffleV2", "wrn_16_2", "wrn_40_2")]
    assert all(len(log.history.epoch) == len(run.epoch) == 240 for log in logs for run in log.earlier)


# What the temperatures say


def temperatures(folder):
    return [log.history.history["kd_temperature"] for log in records.find_logs(folder) if log.method == "ctkd+std"]


def assert_in_range(curves, low, high):
    """All start below where θ = 1 begins and end at the floor, none crosses it."""
    start = low + (high - low) / (1 + math.exp(-1))
    assert all(low < min(curve) < low + 0.05 for curve in curves)
    assert all(22.0 < curve[0] < start for curve in curves)
    assert max(curve[0] for curve in curves) > 21.0  # which CTKD's own range does not reach


def test_the_logs_have_a_floor_of_two_and_start_below_31(shared):
    assert len(temperatures(LOGS)) == 7
    assert len(temperatures(shared / "logs")) == 14
    assert_in_range([*temperatures(LOGS), *temperatures(shared / "logs")], 2.0, 42.0)


def test_standardised_ctkd_has_twice_the_range_of_ctkd():
    rule = recipes.get_method("ctkd+std").losses()["kd"].temperature
    assert (rule.t_start, rule.t_end) == (2.0, 40.0)
    assert float(rule.temperature[...]) == pytest.approx(31.2423, abs=1e-4)
    bounds = program.watched_bounds(nnx.Dict(kd=losses.KD(rule)))
    assert bounds == {"kd_temperature": (2.0, 42.0)}
    plain = losses.CurriculumTemperature()
    assert float(rule.temperature[...]) == pytest.approx(2 * float(plain.temperature[...]), rel=1e-6)
    logits, progress = jnp.ones((1, 3)), Progress(step=jnp.int32(0), epoch=jnp.int32(1))
    for raw, expected in ((-40.0, 2.0), (0.0, 22.0), (40.0, 42.0)):
        rule.raw[...] = jnp.float32(raw)
        rule.temper(logits, logits, None, progress)
        assert float(rule.temperature[...]) == pytest.approx(expected, rel=1e-6)


def test_a_run_of_the_old_range_stays_one(tmp_path):
    record = records.read(FOUR_EPOCHS / "ctkd+std" / "resnet56-resnet20" / "seed0")
    assert record.settings["method"]["settings"] == {"t_start": 1.0, "t_end": 20.0, "curriculum_epochs": 10}
    assert not record.published.as_published
    assert record.history.history["kd_temperature"][-1] < 2.0  # below the floor of the recipe as it is now
    new = recipes.get_method("ctkd+std")
    old = recipes.get_method("ctkd+std", t_start=1.0, t_end=20.0)
    assert old.describe() == record.settings["method"]
    for name, method in (("old", old), ("new", new)):
        recorded.run(tmp_path / name, finished=False, method=method.describe())
    labels = [group.label for group in records.groups(records.find(tmp_path))]
    assert labels == ["standardised CTKD, t end 40", "standardised CTKD, t end 20"]
    directory = records.RunDirectory(tmp_path / "old")
    settings = records.read(tmp_path / "old").settings
    directory.check({**settings, "method": old.describe()}, resume=True)
    with pytest.raises(
        ValueError, match=r"t_end was 20\.0 and is 40\.0; method\.settings\.t_start was 1\.0 and is 2\.0"
    ):
        directory.check({**settings, "method": new.describe()}, resume=True)


# Why our loss is higher in the first epochs


@pytest.mark.slow
def test_the_surer_a_teacher_the_higher_the_loss_of_a_student_that_knows_nothing(shared, cifar100_dir):
    """Theirs is another ResNet-56 than ours: what a flat student has to make up differs by the teacher's file alone."""
    images = data.load("cifar100", str(cifar100_dir))[0].subset(1500)
    progress = Progress(step=jnp.int32(0), epoch=jnp.int32(1))
    kd = recipes.get_method("kd+std").losses()["kd"]
    logits = {}
    for name, expected in TEACHERS.items():
        teacher = convert.from_torch(shared / "checkpoints" / f"cifar100_{name}.pth")
        logits[name] = analysis.predict(teacher, images)
        uniform = np.zeros_like(logits[name])
        assert in_float64(uniform, logits[name]) == pytest.approx(expected, abs=0.006), name
    students = {"uniform": np.zeros_like(logits["resnet56"]), **logits}
    for name, student in students.items():
        batch = Batch(images=None, labels=jnp.asarray(images.labels), index=None)
        found = kd(Outputs(jnp.asarray(student)), Outputs(jnp.asarray(logits["resnet56"])), batch, progress, None)
        assert float(found) == pytest.approx(in_float64(student, logits["resnet56"]), abs=1e-5), name


def in_float64(student, teacher, temperature=2.0):
    """T² · KL(teacher ‖ student) of z-scored logits, as the paper states it."""

    def softened(logits):
        logits = np.asarray(logits, np.float64)
        centred = logits - logits.mean(1, keepdims=True)
        scores = centred / (1e-7 + logits.std(1, keepdims=True, ddof=1)) / temperature
        return scores - np.log(np.exp(scores).sum(1, keepdims=True))

    p, q = softened(teacher), softened(student)
    return temperature**2 * (np.exp(p) * (p - q)).sum(1).mean()
