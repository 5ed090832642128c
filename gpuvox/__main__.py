"""``python -m gpuvox``."""

import sys

from gpuvox.cli import main

sys.exit(main())
