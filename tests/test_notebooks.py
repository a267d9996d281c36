"""The notebooks of the pages: every cell runs, and shows what is stored below it."""

import pathlib
import re

import pytest
from sweeps import sweep

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
CELLS_WITH_OUTPUT = 4
"""Fewer than any of them has."""


@pytest.fixture(scope="module")
def libraries():
    pytest.importorskip("matplotlib", reason="the notebooks draw pictures")
    pytest.importorskip("ipykernel", reason="notebooks run in a kernel")
    return pytest.importorskip("nbformat"), pytest.importorskip("nbclient", reason="runs notebooks without a browser")


@pytest.fixture
def execute(libraries, tmp_path, monkeypatch):
    """Runs a notebook without a browser; returns it, and all that was shown under the name of a display, in order."""
    _, nbclient = libraries
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):  # nobody's own settings, and none left
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    updates = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, cell_index):
            content = message["content"]
            if "display_id" in content.get("transient", {}):
                updates.append(content["data"]["text/html"])
            return super().process_message(message, cell, cell_index)

    def run(notebook):
        client = Client(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
        return client.execute(), updates

    return run


def kinds(cell):
    """What stands below a cell: the kinds of each output, without its text."""
    # What is told on the error stream depends on the machine: a first run says that it compiles kernels.
    outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    return [(output.output_type, sorted(output.get("data", {})) or output.get("name")) for output in outputs]


def html(cells):
    return [
        output.data["text/html"] for cell in cells for output in cell.outputs if "text/html" in output.get("data", {})
    ]


def test_there_are_three_and_the_pages_lead_to_them():
    docs = pathlib.Path(__file__).parents[1] / "docs"
    assert [path.stem for path in NOTEBOOKS] == ["first_steps", "reading_a_run", "your_own_loss"]
    for page in ("index.md", "getting-started.md"):
        found = set(re.findall(r"\(notebooks/(\w+)\.ipynb\)", (docs / page).read_text(encoding="utf-8")))
        assert found == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere_and_its_outputs_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 150_000
    assert str(pathlib.Path.home()) not in text
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        assert (path.parent / link).exists(), link


@sweep("path", NOTEBOOKS, core=[], thorough=NOTEBOOKS[:1], ids=lambda path: path.stem)
def test_every_cell_runs_and_shows_what_is_stored(path, libraries, execute):
    nbformat, _ = libraries
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    notebook, updates = execute(nbformat.read(path, as_version=4))  # raises the error of a cell
    for before, after in zip(stored.cells, notebook.cells, strict=True):
        assert kinds(before) == kinds(after), before.source
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in cells) >= CELLS_WITH_OUTPUT

    within = re.findall(r"epoch (\d+/\d+) · (\d+)/(\d+).*?width:(\d+)%", "\n".join(updates))
    assert within
    widths = {epoch: [int(width) for number, _, _, width in within if number == epoch] for epoch, _, _, _ in within}
    assert all(shown == sorted(shown) for shown in widths.values())
    assert any(0 < width < 100 for shown in widths.values() for width in shown), "the bar moves within an epoch"
    assert all(int(width) == round(100 * int(step) / int(steps)) for _, step, steps, width in within)

    assert any(shown.startswith("<table>") and ">epoch<" in shown for shown in html(cells)), "the table of a history"
    pictures = [
        output.data["image/png"] for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert all(picture.startswith("iVBORw0KGgo") for picture in pictures)  # the signature of PNG in base64
