"""The report page: what it says, that it is whole, and how a browser shows it."""

import base64
import hashlib
import html.parser
import re
import shutil

import browser
import numpy as np
import pytest
import recorded
from image_tree import image_tree

from jaxkd import convert, data, models, records, report
from jaxkd.history import History
from jaxkd.plots.scale import linear
from jaxkd.report import __main__ as command
from jaxkd.report import disagreements
from jaxkd.report.disagreements import png
from jaxkd.report.quantities import quantity
from jaxkd.trainer import Trainer

HOSTILE = "<script>alert(1)<&\"'"
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(html.parser.HTMLParser):
    """A page as a list of elements: dictionaries of `tag`, attributes and `text`. Refuses what is not nested."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(content)
        self.close()
        assert not self.open, f"never closed: {[element['tag'] for element in self.open]}"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "inside": [outer["tag"] for outer in self.open], **dict(attrs)}
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1]["tag"] == tag, f"</{tag}> closes {self.open[-1]['tag']}"
        self.open.pop()

    def handle_data(self, text):
        for element in self.open:
            element["text"] += text

    def all(self, tag, of_class=None):
        """The elements of a kind."""
        found = [element for element in self.elements if element["tag"] == tag]
        return [e for e in found if of_class is None or of_class in (e.get("class") or "").split()]

    def row(self, label):
        """The texts of the first row of a table that begins with a label."""
        rows = "".join(f"{e['tag']}\x00{e['text']}\x01" for e in self.elements if e["tag"] in ("tr", "th", "td"))
        for row in rows.split("tr\x00")[1:]:
            cells = [cell.partition("\x00")[2] for cell in row.split("\x01")[1:-1]]
            if cells and cells[0] == label:
                return cells[1:]
        raise AssertionError(f"no row {label!r}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of every kind: seeds, a student alone, one with a published number and an evil name, a grid."""
    path = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        recorded.run(path / f"kd{seed}", (0.5, 0.75, 0.8, 0.7 + 0.1 * seed), seed=seed)
    recorded.alone(path / "alone")
    recipe = {**recorded.RECIPE, "deviation": 0.0012}
    method = {"name": HOSTILE, "weights": {"ce": 0.1, "kd": 0.9}, "settings": {HOSTILE: HOSTILE}}
    recorded.run(path / HOSTILE, (0.4, 0.6, 0.7, 0.72), facts={"recipe": recipe}, method=method, student=HOSTILE)
    recorded.run(path / "running", (0.4, 0.6), finished=False, precision="bfloat16")
    recorded.grid(path / "grid")
    return path


@pytest.fixture(scope="module")
def written(folder):
    """The page about them as text."""
    path = report.write([folder], folder / "report.html", title=f"Runs {HOSTILE}")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_it_is_a_whole_document(written, page):
    assert written.startswith('<!doctype html>\n<html lang="en">')
    assert [len(page.all(tag)) for tag in ("html", "head", "body", "main", "h1", "style")] == [1] * 6
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(ids) == len(set(ids))
    for attribute in ("for", "aria-labelledby"):
        assert {element[attribute] for element in page.elements if attribute in element} <= set(ids)
    assert {link["href"] for link in page.all("a")} == {f"#{section['id']}" for section in page.all("section")}
    assert [section["id"] for section in page.all("section")] == [
        "results", "curves", "grids", "configuration", "environment",
    ]  # fmt: skip


def test_it_needs_nothing_from_elsewhere(written, page):
    assert not re.search(r"https?://|url\(|@import|<link|srcset", written)
    for element in page.elements:
        assert element.get("src", "data:").startswith("data:")
        assert element.get("href", "#").startswith("#")


def test_no_script_runs_but_its_own(page):
    (policy,) = [e["content"] for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("script", "style"):
        (own,) = page.all(tag)
        digest = base64.b64encode(hashlib.sha256(own["text"].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [
        element for element in page.elements if any(name.startswith("on") or name == "style" for name in element)
    ]


def test_names_are_text_whatever_they_hold(page):
    (title,) = [element for element in page.all("title") if element["inside"] == ["html", "head"]]
    assert title["text"] == f"Runs {HOSTILE}"
    assert page.all("h1")[0]["text"] == f"Runs {HOSTILE}"
    assert any(HOSTILE in cell["text"] for cell in page.all("td", "path"))
    assert HOSTILE in page.row(f"method.settings.{HOSTILE}")
    assert any(entry["text"].startswith(HOSTILE) for entry in page.all("li"))
    assert any(picture.get("aria-label", "").startswith(HOSTILE) for picture in page.all("svg", "dots"))


def test_everything_is_labelled(page):
    for picture in page.all("svg"):
        named = picture.get("role") == "img" and picture.get("aria-label")
        assert named or picture.get("aria-hidden") == "true" or "svg" in picture["inside"]
    for box in page.all("input"):
        assert box["id"] in {label["for"] for label in page.all("label")}
    assert {cell.get("scope") for cell in page.all("th")} == {"row", "col", "colgroup"}
    for region in page.all("div", "scroll"):
        assert (region["role"], region["tabindex"]) == ("region", "0")
        assert region["aria-label"]


def test_the_numbers_are_those_of_the_records(folder, page):
    head = [cell["text"] for cell in page.all("th") if cell.get("scope") == "col"][:7]
    assert head == [
        "configuration", "runs", "last epoch", "best epoch", "over the student alone", "published", "difference",
    ]  # fmt: skip
    assert page.row("KD, precision float32") == ["2", "75.00 ± 7.07", "80.00 ± 0.00", "+15.00", "–", "–"]
    assert page.row("resnet8 alone") == ["1", "60.00", "70.00", "–", "–", "–"]
    assert page.row(HOSTILE) == ["1", "72.00", "72.00", "–", "70.66 ± 0.12", "+1.34 †"]
    values = {figure["text"].partition(",")[0]: figure for figure in page.all("div") if not figure.get("class")}
    assert any(text.startswith("Teacher resnet14") and "98.33" in text for text in values)


def of_kd(tmp_path):
    """What the table of results says of KD, by column."""
    found = Page(report.page(records.find(tmp_path)))
    columns = [cell["text"] for cell in found.all("th") if cell.get("scope") == "col"]
    return dict(zip(columns[1:], found.row("KD"), strict=False))


def test_a_student_alone_is_no_measure_before_it_is_finished(tmp_path):
    recorded.run(tmp_path / "kd")
    recorded.alone(tmp_path / "alone", (0.1, 0.2), finished=False)
    assert "over the student alone" not in of_kd(tmp_path)


@pytest.mark.parametrize(
    ("other", "alone"),
    [
        ({"precision": "bfloat16"}, "+50.00"),
        ({"init": {"sha256": "0b48", "freeze": False}}, "+50.00"),
        ({"training": {**recorded.SETTINGS["training"], "mixup": 0.2}}, "+50.00"),
        ({"data": {**recorded.SETTINGS["data"], "images": 700}}, None),
        ({"data": {**recorded.SETTINGS["data"], "validation_split": 0.2}}, None),
    ],
)
def test_a_gain_is_over_the_student_that_was_trained_alike(tmp_path, other, alone):
    recorded.run(tmp_path / "kd")
    recorded.alone(tmp_path / "alone 1", (0.1, 0.2), **other)  # which is found first
    assert of_kd(tmp_path).get("over the student alone") == alone
    recorded.alone(tmp_path / "alone 2")
    assert of_kd(tmp_path)["over the student alone"] == "+10.00"


def test_averaged_weights_have_a_column_where_there_are_any(tmp_path):
    for seed in range(2):
        recorded.run(tmp_path / f"kd{seed}", averaged=(0.1, 0.5, 0.7, 0.8 + 0.02 * seed), seed=seed)
    recorded.alone(tmp_path / "alone")
    found = Page(report.page(records.find(tmp_path)))
    head = [cell["text"] for cell in found.all("th") if cell.get("scope") == "col"]
    assert head[:5] == ["configuration", "runs", "last epoch", "best epoch", "averaged weights"]
    assert found.row("KD")[3] == "81.00 ± 1.41"
    assert found.row("resnet8 alone")[3] == "–"


def test_what_a_reader_must_know_is_said(page):
    notes = " ".join(note["text"] for note in page.all("p", "note"))
    assert "1 run is not finished, and shown as far as it is" in notes
    assert "differ from the published recipe" in notes
    assert "chosen by looking at the test images" in notes
    assert page.row("KD, precision bfloat16")[0] == "0 of 1"


def test_a_repeated_seed_is_said(tmp_path):
    for name in "ab":
        recorded.run(tmp_path / name)
    found = Page(report.page(records.find(tmp_path)))
    assert any("seed 0 is there more than once" in note["text"] for note in found.all("p", "note"))


def test_every_quantity_has_a_chart(page):
    titles = [figure["text"] for figure in page.all("strong") if "figcaption" in figure["inside"]]
    assert titles == [
        "Test accuracy, %", "Training accuracy, %", "Test cross-entropy", "Training loss, all terms", "Loss term ce",
        "Loss term kd", "Temperature of kd", "λ of kd", "Learning rate", "Images per second",
    ]  # fmt: skip
    values = [entry["data-values"] for entry in page.all("li") if "data-values" in entry]
    assert values[0] == "50.0,60.0,70.0,60.0"


def test_the_end_of_a_long_run_is_shown_closer(tmp_path):
    recorded.run(tmp_path / "run", np.linspace(0.1, 0.9, 80), finished=False)
    figures = Page(report.page(records.find(tmp_path))).all("figure", "main")
    assert [figure["text"].partition(",")[0] for figure in figures] == ["Test accuracy"] * 2
    assert [(figure["data-low"], figure["data-high"]) for figure in figures] == [("1", "80"), ("61", "80")]


def test_a_line_goes_where_the_values_are(tmp_path):
    """The points of the first chart, turned back into accuracies."""
    recorded.run(tmp_path / "run", (0.25, 0.5, 0.75, 0.5))
    found = Page(report.page(records.find(tmp_path)))
    points = [tuple(map(float, point.split(","))) for point in found.all("polyline")[0]["points"].split()]
    assert [x for x, _ in points] == pytest.approx([0, 1000 / 3, 2000 / 3, 1000], abs=0.1)
    ticks = [tick for tick in found.all("text", "tick") if tick["text-anchor"] == "end"][:3]
    ticks = {float(tick["y"][:-1]): float(tick["text"]) for tick in ticks}
    (bottom, low), (top, high) = max(ticks.items()), min(ticks.items())
    accuracies = [low + (high - low) * (bottom - y / 10) / (bottom - top) for _, y in points]
    assert accuracies == pytest.approx([25, 50, 75, 50], abs=0.1)


def test_the_authors_curves_lie_beside_those_of_the_same_method_networks_and_data(tmp_path):
    logs, cifar = tmp_path / "logs", {"name": "cifar100", "images": 50000}
    logs.mkdir()
    lines = "".join(f"{epoch},0.05,{9 + epoch},6.8,{16 + epoch}\n" for epoch in range(1, 11))
    (logs / "KD-kd_resnet14_resnet8_2_9.csv").write_text("epoch,lr,train_acc,train_loss,test_acc\n" + lines)
    runs, method = tmp_path / "runs", {"name": "kd+std", "weights": {"ce": 0.1, "kd": 9.0}, "settings": {}}
    recorded.run(runs / "same", (0.2, 0.3, 0.4), data=cifar, method=method)
    recorded.run(runs / "other method", data=cifar)
    recorded.run(runs / "other data", method=method)
    recorded.run(runs / "other network", data=cifar, method=method, student="resnet20")
    written = report.write([runs], tmp_path / "report.html", authors=logs).read_text(encoding="utf-8")
    theirs = Page(written).all("polyline", "theirs")
    # Of test and training accuracy, loss and learning rate, as far as the longest of ours goes: four epochs.
    assert [line["points"].count(",") for line in theirs] == [4, 4, 4, 4]
    assert theirs[0]["text"].endswith(": the authors' log: 20.0 at epoch 4")
    lines = Page(written).all("polyline")
    before = lines[[line["class"] for line in lines].index(theirs[0]["class"]) - 1]
    assert before["text"].endswith(": 40.0 at epoch 3")
    assert theirs[0]["class"] == f"{before['class']} theirs"
    assert "the authors' log" not in report.write([runs], tmp_path / "without.html").read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="no logs of the authors"):
        report.write([runs], tmp_path / "report.html", authors=runs)


def test_a_loss_that_explodes_does_not_press_the_others_flat(tmp_path):
    for name, exploded in (("calm", 2.0), ("exploded", 51000.0)):
        run = recorded.run(tmp_path / name, (0.5, 0.6), method={"name": name}, finished=False)
        text = (run.path / "metrics.csv").read_text().splitlines()
        column = text[0].split(",").index("val_loss")
        rows = [line.split(",") for line in text[1:]]
        rows[0][column] = str(exploded)
        (run.path / "metrics.csv").write_text("\n".join([text[0], *map(",".join, rows)]))
    found = Page(report.page(records.find(tmp_path)))
    texts = [tick["text"] for tick in found.all("text", "tick")]
    assert {"10000", "1000", "1"} <= set(texts)


def test_the_heat_map_has_the_grid(folder, page):
    grid = records.read_sweep(folder / "grid").grid()
    cells = [cell for cell in page.all("td") if re.match(r"h\d", cell.get("class") or "")]
    assert [float(cell["text"]) for cell in cells] == pytest.approx(100 * grid.mean.ravel(), abs=0.006)
    assert [cell["text"] for cell in page.all("td", "highest")] == ["88.00"]
    assert (cells[0]["class"], cells[-1]["class"]) == ("h0", "h20 highest")
    assert cells[0]["title"] == "± 1.41"
    assert "τ₁, correct class" in [cell["text"] for cell in page.all("th")]


def test_settings_that_differ_are_beside_each_other(page):
    labels = ["resnet8 alone", HOSTILE, "KD, precision float32", "KD, precision bfloat16"]
    assert page.row("setting") == labels
    assert page.row("precision") == ["float32", "float32", "float32", "bfloat16"]
    assert page.row("method.settings.temperature") == ["–", "–", "4", "4"]
    assert page.row("training.batch_size") == ["40"]


def test_data_sets_share_no_axis_and_no_highest(tmp_path):
    recorded.run(tmp_path / "digits", (0.9, 0.95))
    recorded.run(
        tmp_path / "cifar", (0.5, 0.7), data={"name": "cifar100"}, teacher={"name": "resnet56"}, finished=False
    )
    found = Page(report.page(records.find(tmp_path)))
    assert [title["text"] for title in found.all("h3")] == ["cifar100", "digits"] * 2
    assert [plot["text"].count("%") for plot in found.all("div", "dot-plot")] == [1, 1]
    axes = [tick["text"] for tick in found.all("text", "tick") if "div" in tick["inside"] and tick.get("y") == "1.1em"]
    assert max(map(float, axes[: axes.index("95")])) < 80
    tiles = [figure["text"] for figure in found.all("div") if "dl" in figure["inside"]]
    assert tiles == [
        "Teacher resnet56–known when the first of its runs is finished, cifar100",
        "Highest with a teacher70.00KD, not finished, cifar100",
        "Teacher resnet1498.33test accuracy in percent, digits",
        "Highest with a teacher95.00KD, digits",
    ]


def test_first_tries_are_apart_from_results(tmp_path):
    recorded.run(tmp_path / "whole", (0.9, 0.95))
    recorded.run(tmp_path / "few", (0.1, 0.99), limit_examples=100)
    method = recorded.SETTINGS["method"] | {"name": "dist"}
    recorded.run(tmp_path / "begun", (0.97,), finished=False, method=method)  # which may yet fall
    found = Page(report.page(records.find(tmp_path)))
    assert [title["text"] for title in found.all("h3")] == ["digits", "digits, first tries"] * 2
    tiles = [figure["text"] for figure in found.all("div") if "dl" in figure["inside"]]
    assert tiles == [
        "Teacher resnet1498.33test accuracy in percent, digits",
        "Highest with a teacher95.00KD, digits",
    ]
    notes = [note["text"] for note in found.all("p", "note")]
    assert notes.count("First tries, which saw a part of the images only: these numbers are no result.") == 1


@pytest.mark.parametrize("reported", ["last", "best"])
def test_a_published_best_epoch_is_marked_as_one(tmp_path, reported):
    recipe = {**recorded.RECIPE, "reported": reported}
    recorded.run(tmp_path / "run", facts={"recipe": recipe, "reported": reported})
    found = Page(report.page(records.find(tmp_path)))
    (ring,) = found.all("circle", "published")
    assert ("best" in ring["class"].split()) == (reported == "best")
    assert ring["text"] == f"published{', best epoch' if reported == 'best' else ''}: 70.66"
    notes = " ".join(note["text"] for note in found.all("p", "note"))
    assert ("the dashed ring a published number that is its paper's best epoch" in notes) == (reported == "best")


def test_settings_of_many_configurations_are_in_tables_that_fit_the_page(tmp_path):
    for name in "abcdefghi":
        recorded.run(tmp_path / name, (0.5,), method={"name": name, "settings": {name: 1.0}}, finished=False)
    found = Page(report.page(records.find(tmp_path)))
    first, second = [table for table in found.all("table", "settings") if table["text"].lstrip().startswith("setting")]
    assert first["text"].lstrip().startswith("settingabcdefg\n")
    assert second["text"].lstrip().startswith("settinghi\n")
    assert "method.settings.a" not in second["text"]
    assert found.row("method.settings.h") == ["1", "–"]


def test_axes_have_names(page):
    names = [name["text"] for name in page.all("text", "tick")]
    assert names.count("epoch") == len(page.all("figure", "chart")) == 10
    assert names.count("test accuracy, %") == 1


def test_one_run_with_one_epoch(tmp_path):
    recorded.run(tmp_path / "run", (0.5,), finished=False)
    found = Page(report.page(records.find(tmp_path)))
    assert len(found.all("circle", "dot")) > 0
    assert "There is one configuration." in [text["text"] for text in found.all("p")]


def test_a_run_without_epochs_or_test_accuracy(tmp_path):
    recorded.run(tmp_path / "begun", (), finished=False)
    run = records.read(tmp_path / "begun")
    (tmp_path / "begun" / "metrics.csv").write_text("epoch,loss\n1,0.5\n2,nan\n")
    for found in (run, records.read(tmp_path / "begun")):
        assert Page(report.page([found])).row("KD")[1:3] == ["–", "–"]


def test_a_grid_alone(tmp_path):
    sweep = recorded.grid(tmp_path / "grid")
    found = Page(report.page([], [sweep]))
    assert [section["id"] for section in found.all("section")] == ["grids", "configuration", "environment"]


def test_metrics_of_training_are_no_loss_terms():
    titles = [quantity(name).title for name in ("top1", "top3", "val_top3", "measured_learning_rate", "kd")]
    expected = ["Training top1, %", "Training top3, %", "Test top3, %", "Learning rate", "Loss term kd"]
    assert titles == expected


def test_a_metric_beyond_one_hundred_percent_has_an_axis():
    assert linear([6500.0, 7000.0], within=(0.0, 100.0)).high > 7000


def test_a_grid_that_was_not_evaluated_is_shown_run_by_run(tmp_path):
    table = tmp_path / "grid.csv"
    table.write_text("a,b,epoch,loss\n1,1,1,0.5\n2,1,1,0.5\n1,2,1,0.5\n2,2,1,0.5\n")
    found = Page(report.page([], [records.read_sweep(table)]))
    assert "grids" not in [section["id"] for section in found.all("section")]


# Students and their teacher


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Untrained networks as teacher and students: they disagree on most images."""
    path = tmp_path_factory.mktemp("taught")
    convert.save(models.create("resnet8", num_classes=10, seed=5), path / "teacher")
    teacher = {"name": "resnet8", "sha256": records.sha256(path / "teacher")}
    for name, seed in (("a", 6), ("b", 7)):
        settings = {"method": {"name": "kd" if name == "a" else "dkd", "weights": {}, "settings": {}}}
        recorded.run(path / name, facts={"teacher": teacher}, teacher=teacher, **settings)
        convert.save(models.create("resnet8", num_classes=10, seed=seed), path / name / "student")
    return path


def test_the_images_of_a_divided_data_set_are_those_that_were_held_out(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "mine.npz", x=pixels, y=np.arange(20) % 2)
    settings = {"data": {"name": "npz", "validation_split": 0.2, "normalization": {"mean": [0.5], "std": [0.25]}}}
    found = disagreements._test_images("npz", tmp_path, [records.Record("runs/a", "a", settings, History())])
    _, expected = data.load("npz", tmp_path, validation_split=0.2)
    np.testing.assert_array_equal(found.images, expected.images)
    assert (len(found), found.mean, found.std) == (4, (0.5,), (0.25,))
    tree = image_tree(tmp_path / "tree", classes=2, train=1, val=1)
    with pytest.raises(ValueError, match="the images of folder are read from files, and are not compared"):
        disagreements._test_images("folder", tree.root, [])


def test_disagreements_are_those_of_the_networks(taught):
    groups = records.groups(records.find(taught))
    comparison = disagreements.compare(groups, taught / "teacher", count=5)
    mean, std = (recorded.SETTINGS["data"]["normalization"][name] for name in ("mean", "std"))
    test = data.load("digits", split="test", mean=mean, std=std)
    told = Trainer(convert.load(taught / "teacher")).predict(test).argmax(1)
    said = Trainer(groups[0].runs[0].student()).predict(test).argmax(1)
    first = comparison.students[0]
    assert (comparison.teacher, comparison.notes, [s.label for s in comparison.students]) == (
        "resnet8",
        (),
        ["KD", "DKD"],
    )
    assert first.agreement == pytest.approx(np.mean(told == said))
    assert first.counts["teacher"] == np.sum((told == test.labels) & (said != test.labels))
    assert sum(first.counts.values()) == first.images == 360
    surest = [min(example.teacher[1], example.student[1]) for example in first.examples]
    assert len(surest) == 5
    assert surest == sorted(surest, reverse=True)
    for example in first.examples:
        assert example.teacher[0] == test.class_names[told[example.index]]
        assert example.student[0] == test.class_names[said[example.index]]
        assert example.truth == test.class_names[test.labels[example.index]]
        assert example.teacher[0] != example.student[0]
        np.testing.assert_array_equal(example.image, test.images[example.index])


def test_the_page_shows_them(taught, tmp_path, capsys):
    arguments = [str(taught), "-o", str(tmp_path / "deep" / "report.html"), "--teacher", str(taught / "teacher")]
    assert command.main(arguments) == 0
    assert "KiB, to be opened in any browser" in capsys.readouterr().out
    found = Page((tmp_path / "deep" / "report.html").read_text(encoding="utf-8"))
    pictures = found.all("img")
    assert len(pictures) == 24
    assert all(picture["alt"].startswith("test image ") for picture in pictures)
    assert base64.b64decode(pictures[0]["src"].partition(",")[2]).startswith(b"\x89PNG")
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_a_picture_is_what_other_programs_read(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        pixels = rng.integers(0, 256, (5, 7, channels), dtype=np.uint8)
        (tmp_path / "picture.png").write_bytes(png(pixels))
        read = image.imread(tmp_path / "picture.png")
        np.testing.assert_array_equal(np.rint(255 * read).astype(np.uint8).reshape(pixels.shape), pixels)


def test_a_teacher_may_be_named_by_the_directory_of_its_run(taught, tmp_path):
    shutil.copytree(taught / "teacher", tmp_path / "run" / "model")
    groups = records.groups(records.find(taught))
    found, expected = (disagreements.compare(groups, path, count=1) for path in (tmp_path / "run", taught / "teacher"))
    assert (found.teacher, found.notes) == (expected.teacher, expected.notes)
    assert found.students[0].counts == expected.students[0].counts


def test_images_are_read_from_where_the_runs_had_them(tmp_path):
    pixels, labels = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3), np.arange(10) % 2
    np.savez(tmp_path / "own.npz", x=pixels, y=labels)
    settings, place = {"data": {"name": "npz", "validation_split": 0.2}}, str(tmp_path / "own.npz")
    run = records.Record(tmp_path, "run", settings, History(), arguments={"data_dir": place})
    earlier = records.Record(tmp_path, "run", {"data": "npz"}, History())
    found = disagreements._test_images("npz", None, [earlier, run])
    _, held_out = data.load("npz", place, validation_split=0.2)
    np.testing.assert_array_equal(found.images, held_out.images)


def test_another_teacher_is_noticed(taught, tmp_path):
    groups = records.groups(records.find(taught))
    convert.save(models.create("resnet8", num_classes=10, seed=8), tmp_path / "other")
    (note,) = disagreements.compare(groups, tmp_path / "other").notes
    assert "other is not, byte for byte, the file that the runs learned from" in note
    convert.save(models.create("resnet14", num_classes=10), tmp_path / "large")
    with pytest.raises(ValueError, match="is a resnet14, and the runs learned from a resnet8"):
        disagreements.compare(groups, tmp_path / "large")
    convert.save(models.create("resnet8", num_classes=7), tmp_path / "seven")
    with pytest.raises(ValueError, match="has 7 classes, but digits has 10"):
        disagreements.compare(groups, tmp_path / "seven")
    with pytest.raises(FileNotFoundError, match=r"--teacher .*nowhere: there is no such"):
        disagreements.compare(groups, tmp_path / "nowhere")


def test_students_without_weights_are_named(taught, tmp_path):
    method = {"name": "kd", "weights": {}, "settings": {}}
    lost = recorded.run(tmp_path / "lost", teacher={"name": "resnet8"}, method=method, precision="bfloat16")
    kept = records.find(taught)
    assert disagreements.compare(records.groups([*kept, lost]), taught / "teacher").notes == (
        "KD, precision bfloat16: its weights were not kept.",
    )
    with pytest.raises(ValueError, match="no run has a trained student for digits"):
        disagreements.compare(records.groups([lost]), taught / "teacher")
    other = recorded.run(tmp_path / "other", data={"name": "cifar100"}, teacher={"name": "resnet8"})
    with pytest.raises(ValueError, match="more than one data set \\(cifar100, digits\\)"):
        disagreements.compare(records.groups([*kept, other]), taught / "teacher")
    assert len(disagreements.compare(records.groups([*kept, other]), taught / "teacher", "digits").students) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "there are no runs in"),
        (["empty", "--data", "digits"], "give one"),
        (["empty", "--data", "digit"], "invalid choice"),
        ([], "required: RUNS"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "report.html").exists()


# In a browser

PROBE = """(view, page) => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(view.getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const contrasts = (of = "body *") => [...page.querySelectorAll(of)].filter((e) =>
    !["SCRIPT", "STYLE", "title"].includes(e.tagName) &&
    [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) && e.getClientRects().length
  ).map((e) => {
    const style = view.getComputedStyle(e);
    const [one, two] = [light(rgb(e instanceof view.SVGElement ? style.fill : style.color)), light(behind(e))];
    return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), `${e.tagName} ${e.textContent.slice(0, 40)}`];
  });
  const lines = () => [...page.querySelectorAll(".curve")].map((e) => {
    const [one, two] = [light(rgb(view.getComputedStyle(e).stroke)), light(behind(e))];
    return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), e.getAttribute("class")];
  });
  const lowest = (pairs) => pairs.reduce((one, other) => other[0] < one[0] ? other : one);
  const click = (id) => { page.getElementById(id).click(); return view.getComputedStyle(page.body).backgroundColor; };
  for (const part of page.querySelectorAll("details")) part.open = true;
  const width = page.documentElement.clientWidth;
  const outside = [...page.querySelectorAll("body *")].filter((e) => !e.closest(".scroll > *") &&
    !e.closest("svg.plot svg") && !e.closest("legend") && e.getBoundingClientRect().right > width + 0.5);
  const found = {width, scroll: page.documentElement.scrollWidth,
    outside: outside.map((e) => `${e.tagName} ${e.className.baseVal ?? e.className} ${e.textContent.slice(0, 40)}`)};
  found.light = click("theme-light");
  found.lightText = lowest(contrasts());
  found.lightLine = lowest(lines());
  found.lightCell = lowest(contrasts('.heat td'));
  found.dark = click("theme-dark");
  found.darkText = lowest(contrasts());
  found.darkLine = lowest(lines());
  found.darkCell = lowest(contrasts('.heat td'));
  const slider = page.querySelector(".epoch input"), first = page.querySelector("li[data-values]");
  const value = () => first.querySelector(".value").textContent;
  found.sliderSeen = slider.getClientRects().length > 0;
  found.values = [value()];
  slider.value = 3;
  slider.dispatchEvent(new view.Event("input"));
  found.values.push(value());
  found.when = page.querySelector(".when").textContent;
  found.cursor = page.querySelector(".cursor").getAttribute("visibility");
  found.images = [...page.querySelectorAll("img")].map((e) => e.naturalWidth);
  return found;
}"""


@pytest.mark.thorough
def test_a_browser_shows_it_well(folder, taught):
    runs = records.find(folder, taught)
    comparison = disagreements.compare(records.groups(records.find(taught)), taught / "teacher", count=3)
    content = report.page(runs, records.find_sweeps(folder), comparison)
    found, console = browser.inspect(content, PROBE, [375, 1280])
    assert console == []
    for width, seen in found.items():
        assert "error" not in seen, seen["error"]
        assert (seen["scroll"], seen["outside"]) == (seen["width"], []), f"wider than {width} pixels"
        assert seen["light"] != seen["dark"]
        for theme in ("light", "dark"):
            assert seen[f"{theme}Text"][0] >= 4.5, seen[f"{theme}Text"]
            assert seen[f"{theme}Line"][0] >= 3.0, seen[f"{theme}Line"]
            assert seen[f"{theme}Cell"][0] >= 7.0, seen[f"{theme}Cell"]
        assert seen["sliderSeen"]
        assert seen["values"] == ["60.0", "70.0"]
        assert (seen["when"], seen["cursor"]) == ("epoch 3", "visible")
        assert seen["images"] == [8] * 6


@pytest.mark.thorough
@pytest.mark.parametrize("preferred", [0, 1])
def test_the_theme_is_that_of_the_system_until_another_is_chosen(written, preferred):
    probe = """(view, page) => {
      const background = (id) => {
        page.getElementById(id).click();
        return view.getComputedStyle(page.body).backgroundColor;
      };
      const seen = ["auto", "light", "dark"].map((name) => background(`theme-${name}`));
      return [view.matchMedia("(prefers-color-scheme: dark)").matches, ...seen];
    }"""
    found, _ = browser.inspect(written, probe, [600], f"--blink-settings=preferredColorScheme={preferred}")
    is_dark, own, light, dark = found[600]
    assert light != dark
    assert own == (dark if is_dark else light)


@pytest.mark.thorough
def test_a_script_that_got_in_would_not_run(written):
    smuggled = written.replace("</body>", "<script>document.title = 'taken over'</script></body>")
    found, console = browser.inspect(smuggled, "(view, page) => page.title", [600])
    assert found == {600: f"Runs {HOSTILE}"}
    assert any("Content Security Policy" in line for line in console)
