"""Errors in the user's input, and warnings.

The command line shows an `InputError` as one sentence with exit status 2. Every other exception is a fault of
gpuvox, and is shown with its traceback. No code reads the message of another part: what a caller needs to know,
the exception holds as an attribute.
"""

from __future__ import annotations

import os

__all__ = [
    "AnotherRunError",
    "CacheWarning",
    "DesignError",
    "DeviceError",
    "DistributedError",
    "FileError",
    "InUseError",
    "InputError",
    "InputWarning",
    "OptionError",
    "ScratchError",
    "SettingError",
    "UsageError",
]


class InputError(ValueError):
    """Something is wrong with the user's input.

    Parameters
    ----------
    message : str
        One sentence: what is wrong, in which file, what was expected. Line breaks become spaces.
    option : str, optional
        The option or setting that is wrong, as the command spells it: ``--tfce_H``.
    file : path, optional
        The file that is wrong.

    Attributes
    ----------
    message, option, file : str
        Empty if there is none.
    """

    def __init__(self, message: str, *, option: str = "", file: str | os.PathLike[str] = "") -> None:
        self.message = " ".join(message.splitlines())
        self.option = option
        self.file = os.fspath(file)
        super().__init__(self.message)


class FileError(InputError):
    """A file that is missing, ambiguous or malformed, or that cannot be written."""


class DesignError(InputError):
    """A design or contrast that does not allow a test."""


class SettingError(InputError, TypeError):
    """A setting given from Python that does not exist, or whose value has the wrong type."""


class UsageError(InputError):
    """An option that does not exist, lacks its value, or has an invalid value."""


class OptionError(UsageError):
    """An option whose value does not fit the files.

    Parameters
    ----------
    option : str
        As the command spells it: ``--log``.
    reason : str
        One sentence: what is wrong. The message is the option and this.
    """

    def __init__(self, option: str, reason: str, *, file: str | os.PathLike[str] = "") -> None:
        super().__init__(f"{option}: {reason}", option=option, file=file)
        self.reason = " ".join(reason.splitlines())


class ScratchError(InputError):
    """A scratch folder that cannot be used."""


class DeviceError(InputError, RuntimeError):
    """A device was asked for that cannot be used."""


class WrongBitsError(DeviceError):
    """A device computes other bits than the CPU or another device; what it computed before is in doubt too."""


class DistributedError(DeviceError):
    """Dask workers, or a scheduler, that cannot be used."""


class AnotherRunError(FileError):
    """A checkpoint belongs to another run than the one that is to be resumed from it."""


class InUseError(FileError):
    """Another process holds a lock.

    Parameters
    ----------
    what : str
        What is locked.
    holder : str
        Which process holds it; empty if that is unknown.
    """

    def __init__(self, what: str, holder: str) -> None:
        super().__init__(f"{what} is in use by another run ({holder or 'of which nothing is known'})")
        self.what, self.holder = what, holder

    def __reduce__(self) -> tuple[type[InUseError], tuple[str, str]]:
        return type(self), (self.what, self.holder)


class InputWarning(UserWarning):
    """How an ambiguous file was read; the command line shows it as one line."""


class CacheWarning(UserWarning):
    """Compiled code is not cached, or a cache is not read; shown as one line."""
