"""HTML and SVG as trees: what a run brings along is text in them, and can be nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

Element = ElementTree.Element
Child = str | float | Element | None | Iterable["Child"]


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Element:
    """An element.

    Args:
      name: what it is.
      *children: text and elements, in order; None is left out.
      **attributes: `class_` is `class`, other underscores are hyphens. None and False leave an attribute out, True
        gives it no value.

    Example:
      >>> html(tag("p", "1 < ", tag("b", 2), class_="sum", hidden=True, title=None))
      '<p class="sum" hidden="">1 &lt; <b>2</b></p>'
    """
    made = Element(name)
    for key, value in attributes.items():
        if value is not None and value is not False:
            made.set(key.removesuffix("_").replace("_", "-"), "" if value is True else _shown(value))
    _add(made, children)
    return made


def html(element: Element) -> str:
    """An element as text, everything in it escaped."""
    return ElementTree.tostring(element, encoding="unicode", method="html")


def _add(parent: Element, children: Iterable[Child]) -> None:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            parent.append(child)
        elif not isinstance(child, str | int | float) and isinstance(child, Iterable):
            _add(parent, child)
        elif len(parent):
            parent[-1].tail = (parent[-1].tail or "") + _shown(child)
        else:
            parent.text = (parent.text or "") + _shown(child)


def _shown(value: str | float) -> str:
    """Text for a page: numbers with as many digits as a picture needs, and no character that HTML does not have."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "".join(letter for letter in str(value) if letter in "\t\n\r" or ord(letter) >= 32)


def scrolling(label: str, table: Element) -> Element:
    """A table that may be wider than the page, with the keys to move in it."""
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex=0)
