"""The command line: ``gpuvox`` with its subcommands, and ``gpuvox-randomise``."""

from gpuvox.cli.main import main, main_randomise

__all__ = ["main", "main_randomise"]
