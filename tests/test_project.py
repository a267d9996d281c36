"""What the project says of itself agrees with itself."""

import importlib.metadata
import pathlib
import re
import tomllib

import jaxkd

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_the_package_s():
    assert importlib.metadata.version("jaxkd") == jaxkd.__version__


def test_it_is_cited_in_the_version_that_it_has():
    assert f"\nversion: {jaxkd.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_lowest_versions_that_are_tried_are_the_lowest_allowed():
    lowest = dict(line.split("==") for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines())
    allowed = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in PROJECT["project"]["dependencies"])
    for name, version in lowest.items():
        assert version == allowed[name] or version.startswith(f"{allowed[name]}."), name


def test_every_kind_of_file_in_the_package_is_shipped():
    shipped = PROJECT["tool"]["setuptools"]["package-data"]["jaxkd"]
    package = ROOT / "jaxkd"
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data == {path for pattern in shipped for path in package.glob(pattern)}
