"""Whether the compiled loops are in the cache on disk already."""

from __future__ import annotations

from pathlib import Path


def is_cached() -> bool:
    """Whether a run has compiled the loops before; the first one ever takes a few seconds longer."""
    from gpuvox.tfce import _enhance

    folder = Path(_enhance.stats.cache_path)
    return any(folder.glob(f"{Path(__file__).parent.name}*_enhance*.nbi")) or any(folder.glob("tfce._enhance*.nbi"))
