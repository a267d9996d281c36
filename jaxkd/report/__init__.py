"""A page about some runs: results, learning curves, settings, environment.

The page is one file that needs no network. `jaxkd report RUNS… -o report.html` writes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxkd import records
from jaxkd.formats.files import atomic_write
from jaxkd.report import disagreements
from jaxkd.report.page import gathered, page, render

__all__ = ["page", "write"]


def write(
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "report.html",
    *,
    title: str = "Distillation report",
    teacher: str | os.PathLike[str] | None = None,
    data: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    authors: str | os.PathLike[str] | bool | None = None,
) -> Path:
    """Write a page about all runs and sweeps in some folders.

    Args:
      paths: run directories, sweeps, or folders of them.
      output: the file, replaced as a whole; its folder is made.
      title: of the page.
      teacher: the runs' teacher, a file of weights or a folder; with it the page shows test images that it and the
        students disagree on.
      data: the data set these come from; by default the one the runs were trained on.
      data_dir: where it is; by default where the runs had it, if it is still there.
      authors: a folder of training logs that authors published, or True for those that come with this package, see
        `records.find_logs`; the one of a run's method, networks and data is drawn beside it.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: a path does not exist.
      ValueError: there are no runs in them, a record or log is damaged, or the teacher is not theirs.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "sweep.csv").write_text("temperature,epoch,val_accuracy\\n2,1,0.5\\n4,1,0.6\\n")
      >>> write([folder / "sweep.csv"], folder / "report.html").name
      'report.html'
    """
    runs, sweeps = records.find(*paths), records.find_sweeps(*paths)
    if not runs and not sweeps:
        raise ValueError(
            f"there are no runs in {', '.join(map(str, paths))}, and no finished sweeps: name folders that jaxkd "
            "distill, jaxkd train, jaxkd sweep or records.RunDirectory wrote"
        )
    logs = records.find_logs(None if isinstance(authors, bool) else authors) if authors else []
    compared = records.groups(gathered(runs, sweeps))
    comparison = None if teacher is None else disagreements.compare(compared, teacher, data, data_dir)
    content = render(compared, sweeps, comparison, title, logs)
    target = Path(output).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.write(content.encode("utf-8", "replace"))  # a file name may hold what no text does
    return target
