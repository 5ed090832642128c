"""``python -m gpuvox``."""

import contextlib
import os
import sys

# Python put the current folder, which may be somebody's data, at the head of its path.
with contextlib.suppress(OSError):
    here = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if not sys.flags.safe_path and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()) != here:
        del sys.path[0]

from gpuvox.cli import main

sys.exit(main())
