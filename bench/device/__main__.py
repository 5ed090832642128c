"""The command: ``python bench/device`` from any folder, or ``python -m bench.device`` from that of the checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.device.main import main

sys.exit(main())
