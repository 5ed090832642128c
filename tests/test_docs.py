"""What the documentation names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_validation_names_is_there():
    text = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    table = text.split("## Kinds of fault")[1].split("\n## ")[0]
    named = [
        (file, re.findall(r"`(test_\w+)`", names))
        for file, names in re.findall(r"`(test_\w+\.py)`([^;|]*)", table)
    ]
    assert len(named) > 50
    for file, names in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        missing = [name for name in names if not re.search(rf"^def {name}\(", source, re.MULTILINE)]
        assert not missing, (file, missing)
