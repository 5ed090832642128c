"""Check a built site: every link within it leads somewhere, it loads nothing from elsewhere, no page is a wall of text.

python tools/check_site.py build/docs/html
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

WORDS_OF_A_SCREEN = 330
"""About as many fit on a screen of 1280 × 900 beside the contents."""
SCREENS = 3
LISTS = {"generated/changelog.html"}
"""Pages in which one looks something up, and which nobody reads from top to bottom."""
LOADED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("object", "data"),
}
NEVER_SHOWN = {"script", "style", "head", "nav", "footer"}


@dataclass
class Page(HTMLParser):
    """What is needed of a page."""

    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    words: int = 0
    shows_something: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._hidden: list[str] = []
        self._in_article = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links and anchors, and what is loaded."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        for name in ("src", "href", "data"):
            stays = tag == "link" and values.get("rel") not in ("stylesheet", "icon", "preload", "shortcut icon")
            if (tag, name) in LOADED and name in values and not stays:
                self.loaded.append(values[name])
        if tag in NEVER_SHOWN:
            self._hidden.append(tag)
        self._in_article += tag == "article"
        if self._in_article and tag in ("img", "pre"):
            self.shows_something = True

    def handle_endtag(self, tag: str) -> None:
        """Leave what is not shown."""
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()
        self._in_article -= tag == "article"

    def handle_data(self, data: str) -> None:
        """Count words of the text."""
        if self._in_article > 0 and not self._hidden:
            self.words += len(data.split())


def read(path: Path) -> Page:
    """A page."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def faults(site: Path) -> list[str]:
    """A sentence for each fault of a site."""
    pages = {path.resolve(): read(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for address in page.links + page.loaded:
            fault = broken(address, path, pages, site.resolve())
            found += [f"{name}: {address} {fault}"] if fault else []
        found += [f"{name} loads {address}" for address in page.loaded if urlsplit(address).netloc]
        if page.words > SCREENS * WORDS_OF_A_SCREEN and not page.shows_something and str(name) not in LISTS:
            found.append(f"{name} has {page.words} words, and neither a picture nor an example")
    return found


def broken(address: str, path: Path, pages: dict[Path, Page], site: Path) -> str:
    """Why an address within a site leads nowhere; empty if it does, or if it leads out of the site."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_relative_to(site):
        return "leaves the site"
    if not target.is_file():
        return "is missing"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors and not re.match(r"/|:~:", anchor):
        return "has no such place"
    return ""


def main() -> None:
    """Print the faults of a site; status 1 if there are any."""
    site = Path(sys.argv[1])
    count = sum(1 for _ in site.rglob("*.html"))
    found = faults(site)
    print(*found, sep="\n")
    print(f"{count} pages, {len(found)} faults")
    sys.exit(bool(found) or not count)


if __name__ == "__main__":
    main()
