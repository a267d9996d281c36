"""Find the folder that has the files of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def folder_with(
    name: str, folders: Sequence[Path], files: Mapping[str, Sequence[str]], splits: Sequence[str]
) -> Path | None:
    """Return the first folder with all files of the wanted splits; None where none has any.

    Args:
      name: of the data set.
      folders: in the order in which they are tried.
      files: of each split.
      splits: that are wanted.

    Raises:
      FileNotFoundError: some of the files are there and others are not.
    """
    wanted = [file for split in splits for file in files[split]]
    incomplete = ""
    for folder in folders:
        missing = [file for file in wanted if not (folder / file).is_file()]
        if not missing:
            return folder
        if len(missing) < len(wanted) and not incomplete:
            incomplete = f"{folder} lacks {', '.join(missing)}"
    if incomplete:
        raise FileNotFoundError(
            f"{incomplete}: add what is missing, or read one split alone, data.load({name!r}, split='test')"
        )
    return None
