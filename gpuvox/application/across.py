"""p-values that are corrected over all tests of several runs: known, and written, when the last run has ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gpuvox import files
from gpuvox.analysis import TestResult
from gpuvox.application.outputs import Writer
from gpuvox.joint import JointNull


@dataclass(eq=False)
class AcrossTests:
    """The tests of several runs that are corrected together.

    Attributes
    ----------
    null : JointNull
    tests : list of (TestResult, Writer)
        Without their maps.
    """

    null: JointNull = field(default_factory=JointNull)
    tests: list[tuple[TestResult, Writer]] = field(default_factory=list)

    def keep(self, result: TestResult, writer: Writer) -> None:
        """Keep what the correction needs of a test whose other maps have been written."""
        self.null.add(result)
        self.tests.append((replace(result, maps={}), writer))

    def write(self) -> None:
        """Write the maps of all tests, and add them to the records of their runs.

        Raises
        ------
        FileError
            A file cannot be written.
        """
        for result, writer in self.tests:
            writer.across(self.null.added_to(result))
        for writer in dict.fromkeys(writer for _, writer in self.tests):
            path = f"{writer.root}_randomise.json"
            record = files.read_json(path)
            files.write_json(path, record | {"maps": writer.written, "files": writer.files})
