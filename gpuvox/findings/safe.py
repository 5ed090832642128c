"""Protection of the page against texts from others: they must not change the direction of other text, or run code.

Every text in the template goes through `isolated`, and the finished page through `sealed`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from typing import Any

from markupsafe import Markup

from gpuvox.plain import TURNING, escaped

POLICY = "@@content-security-policy@@"
"""Placeholder in the template for the hashes."""
OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Delimiters of texts to isolate, until it is known whether they are inside a tag; not characters of any text."""
_CODE = re.compile(r"(<(script|style)\b[^>]*>)(.*?)(</\2>)", re.DOTALL)
_TITLE = re.compile(r"<title>.*?</title>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_WIDTH = re.compile(r'class="w(\d+)"')


def isolated(value: Any) -> Any:
    """A text with right-to-left parts or marks, delimited to become a ``<bdi>``; other values unchanged."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isascii():
        return value
    value = value.replace(OPEN, "").replace(CLOSE, "")
    turns = TURNING.search(value) or any(unicodedata.bidirectional(c) in ("R", "AL") for c in value)
    return f"{OPEN}{value}{CLOSE}" if turns else value


def shown(value: Any) -> Any:
    """Data for scripts, with direction marks in all texts and keys shown in escaped form."""
    if isinstance(value, str):
        return TURNING.sub(lambda match: escaped(match[0]), value)
    if isinstance(value, dict):
        return {shown(key): shown(each) for key, each in value.items()}
    return [shown(each) for each in value] if isinstance(value, list | tuple) else value


def sealed(page: str) -> str:
    """The page with texts isolated, direction marks escaped, and a policy that permits only its own scripts and styles.

    Marks that change the direction of text are escaped everywhere: a sentence may contain a name, and the text after
    the name must keep its direction.
    """
    code: list[str] = []

    def put_by(match: re.Match[str]) -> str:
        code.append(match[0])
        return f"<code-{len(code) - 1}>"

    page = _CODE.sub(put_by, page)
    page = _TITLE.sub(lambda match: _without(match[0]), page)
    page = _TAG.sub(lambda match: _without(match[0]), page)
    page = shown(page.replace(OPEN, "<bdi>").replace(CLOSE, "</bdi>"))
    page = re.sub(r"<code-(\d+)>", lambda match: code[int(match[1])], page)
    widths = sorted({int(width) for width in _WIDTH.findall(page)})
    rules = "".join(f".w{width}{{flex:{width} 1 0}}" for width in widths)
    page = page.replace("</style>", f"{rules}</style>", 1)
    return page.replace(POLICY, policy(page), 1)


def _without(text: str) -> str:
    return text.replace(OPEN, "").replace(CLOSE, "")


def policy(page: str) -> str:
    """The content security policy: no network, no frames, no forms, and only these scripts and styles."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for start, kind, content, _ in _CODE.findall(page):
        if "application/json" not in start:
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            hashes[kind].append(f"'sha256-{digest}'")
    styles, scripts = (" ".join(hashes[kind]) or "'none'" for kind in ("style", "script"))
    return (
        f"default-src 'none'; img-src data:; style-src {styles}; script-src {scripts}; base-uri 'none'; "
        "form-action 'none'"
    )
