"""HTML that is escaped by construction.

A page is a tree of elements whose texts and attributes are plain strings. Only `render` turns it into HTML, and escapes
all of them: no string of a run folder (the name of a task, a method, a file) can become an element, an attribute or a
script.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from xml.etree import ElementTree

from speechssl.terminal import printable

_VOID = ("meta", "br", "link", "img", "hr")  # elements without an end
_XLINK = "{http://www.w3.org/1999/xlink}"


@dataclass(frozen=True)
class Element:
    """An element of a page.

    Attributes:
        name: name of the element; a constant of this package, never a string of a run.
        children: texts and elements, in order.
        attributes: by name; None stands for an attribute without a value.
    """

    name: str
    children: "Sequence[str | Element]" = ()
    attributes: Mapping[str, str | None] = field(default_factory=dict[str, str | None])


Child = str | Element


def tag(name: str, /, *children: Child | Sequence[Child], **attributes: str | None) -> Element:
    """An element.

    Args:
        name: of the element.
        children: texts, elements, or sequences of them.
        attributes: `class_` for the attribute `class`; other underscores become hyphens.

    >>> render(tag("p", "1 < 2 ", tag("b", "<b>"), title='"', class_="note"))
    '<p title="&quot;" class="note">1 &lt; 2 <b>&lt;b&gt;</b></p>'
    """
    flat = [each for child in children for each in ([child] if isinstance(child, str | Element) else child)]
    names = {key.removesuffix("_").replace("_", "-"): value for key, value in attributes.items()}
    return Element(name, flat, names)


def render(*content: Child) -> str:
    """The HTML of texts and elements.

    Control characters and marks of direction become visible escape sequences.

    Raises:
        ValueError: an element whose text cannot be escaped (`script`), or a style with an angle bracket in it.
    """
    return "".join(piece for each in content for piece in _pieces(each))


def _pieces(content: Child) -> Iterator[str]:
    if isinstance(content, str):
        yield escape(printable(content), quote=False)
        return
    name = content.name
    attributes = "".join(
        f" {key}" if value is None else f' {key}="{escape(printable(value))}"'
        for key, value in content.attributes.items()
    )
    yield f"<{name}{attributes}>"
    if name in _VOID:
        return
    if name in ("style", "script"):  # browsers read their text as it is
        words = "".join(each for each in content.children if isinstance(each, str))
        if name == "script" or "<" in words or "&" in words:
            raise ValueError(f"an element {name} whose text cannot be escaped")
        yield words
    else:
        for child in content.children:
            yield from _pieces(child)
    yield f"</{name}>"


def from_svg(source: bytes, *, prefix: str, attributes: Mapping[str, str]) -> Element:
    """Convert an SVG figure to an element of the page.

    Args:
        source: an SVG file; its metadata and comments are left out.
        prefix: prefix of the ids of its elements, which the figures of one page would otherwise share.
        attributes: attributes of the figure; they replace its width and height.
    """
    root = _converted(ElementTree.fromstring(source), prefix)
    kept = {key: value for key, value in root.attributes.items() if key not in ("width", "height", "version")}
    return Element("svg", root.children, {**attributes, **kept})


def _converted(element: ElementTree.Element, prefix: str) -> Element:
    children: list[Child] = [element.text] if element.text and element.text.strip() else []
    for child in element:
        if not child.tag.endswith("}metadata"):  # metadata has URLs
            children.append(_converted(child, prefix))
        if child.tail and child.tail.strip():
            children.append(child.tail)
    attributes = {
        key.replace(_XLINK, "xlink:").rpartition("}")[2]: _own(key, " ".join(value.split()), prefix)
        for key, value in element.attrib.items()
    }
    return Element(element.tag.rpartition("}")[2], children, attributes)


def _own(key: str, value: str, prefix: str) -> str:
    """The value of an attribute, with the prefix where it is, or refers to, the id of an element."""
    if key == "id":
        return f"{prefix}-{value}"
    if key.rpartition("}")[2] == "href" and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    return value.replace("url(#", f"url(#{prefix}-")
