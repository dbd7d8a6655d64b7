"""Reads a page as a browser or a screen reader does, as far as a test needs it."""

import base64
import html.parser
import pathlib
import re

VOID = {"meta", "img", "br", "line", "circle", "path", "use"}


class Page(html.parser.HTMLParser):
    """Elements of a page, in order, as (name, attributes); `text`: what is read of it."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.source, self.text, self.open = path.read_text(), "", []
        self.feed(self.source)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        if name not in VOID:
            assert self.open.pop() == name, f"</{name}> closes something else"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, name: str) -> list[dict]:
        return [attributes for element, attributes in self.elements if element == name]

    def sections(self) -> list[str]:
        return [attributes["id"] for attributes in self.all("section") if "id" in attributes]


def check(path: pathlib.Path) -> Page:
    """A page that needs nothing beside itself, and that can be read by everybody."""
    page = Page(path)
    assert page.open == [] and path.stat().st_size < 2_000_000
    assert not page.all("script") and not page.all("link")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    used = [value for _, attributes in page.elements for key, value in attributes.items()
            if key in ("src", "href", "xlink:href")]  # fmt: skip
    assert all(value.startswith(("data:", "#")) for value in used), [v[:60] for v in used if v[:1] not in "d#"]
    assert {value[1:] for value in used if value.startswith("#")} <= set(ids)
    assert all("#" in link or "data:" in link for link in re.findall(r"url\(([^)]*)\)", page.source))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in page.all("svg"))
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert all(attributes.get("aria-label") for attributes in page.all("audio"))
    return page


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(";base64,")[2], validate=True)
