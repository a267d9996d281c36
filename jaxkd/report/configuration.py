"""What was decided and where it ran: settings that differ, settings that all share, the environment."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxkd.records import Group, Record, SweepRecord, differences, flat
from jaxkd.records.groups import text
from jaxkd.report.curves import named
from jaxkd.report.markup import Element, tag
from jaxkd.report.results import scrolling


def different(groups: Sequence[Group]) -> Element:
    """A row for each setting that is not the same everywhere, a column for each configuration."""
    found = differences(groups)
    if not found:
        what = "There is one configuration." if len(groups) == 1 else "All configurations have the same settings."
        return tag("p", what)
    head = tag("tr", tag("th", "setting", scope="col"),
               [tag("th", named(place, group.label), scope="col") for place, group in enumerate(groups)])  # fmt: skip
    rows = [
        tag("tr", tag("th", tag("code", name), scope="row"), [tag("td", text(value)) for value in values])
        for name, values in found.items()
    ]
    return scrolling("Settings that differ", tag("table", tag("thead", head), tag("tbody", rows), class_="settings"))


def shared(groups: Sequence[Group]) -> Element:
    """The settings that are the same everywhere."""
    varying = differences(groups)
    same = {name: value for name, value in groups[0].settings.items() if name not in varying} if groups else {}
    return _pairs("Settings that all share", same)


def of_sweep(sweep: SweepRecord) -> Element:
    """The settings of a sweep."""
    return _pairs(f"Settings of {sweep.name}", flat(sweep.settings))


def environment(runs: Sequence[Record]) -> Element:
    """Versions, devices, machines and code; where runs differ, every value with the number of runs."""
    kinds: dict[str, list[str]] = {}
    for run in runs:
        for name, value in _surroundings(run):
            kinds.setdefault(name, []).append(value)
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", _counted(values))) for name, values in kinds.items()]
    table = tag("table", tag("tbody", rows), class_="settings")
    return scrolling("Environment", table) if rows else tag("p", "It was not recorded.")


def commands(runs: Iterable[Record]) -> Element:
    """The command lines, each once."""
    lines = dict.fromkeys(shlex.join(map(str, run.environment.get("command", ()))) for run in runs)
    return tag("ul", [tag("li", tag("code", line)) for line in lines if line], class_="commands")


def _surroundings(run: Record) -> Iterable[tuple[str, str]]:
    known = run.environment
    device, machine, git = (known.get(name) or {} for name in ("device", "machine", "git"))
    if device:
        count = f"{device.get('count')} × " if device.get("count", 1) > 1 else ""
        kind, platform = device.get("kind"), device.get("platform")
        yield "device", f"{count}{kind}" if kind == platform else f"{count}{kind} ({platform})"
    if known.get("convolutions"):
        yield "convolutions", str(known["convolutions"])
    if machine:
        yield "machine", f"{machine.get('system')}, {machine.get('processors')} processors"
    for name, version in (known.get("versions") or {}).items():
        yield name, str(version)
    if known and not git:
        yield "code", "in no git repository"
    if git:
        yield "code", f"commit {str(git.get('commit'))[:10]}{', changed since' if git.get('changed') else ''}"
    if "written" in known:
        yield "begun", str(known["written"])[:10]


def _counted(values: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0]
    return "; ".join(f"{value} ({values.count(value)} of {len(values)} runs)" for value in distinct)


def _pairs(label: str, settings: Mapping[str, Any]) -> Element:
    rows = [
        tag("tr", tag("th", tag("code", name), scope="row"), tag("td", text(value))) for name, value in settings.items()
    ]
    return scrolling(label, tag("table", tag("tbody", rows), class_="settings"))
