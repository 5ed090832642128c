"""PALM's options: their values, what they do here, and those that do nothing here or are not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.errors import UsageError

USAGE = """gpuvox palm -i FILE [-i FILE ...] -d FILE -t FILE [-f FILE] -o PREFIX [options]
       gpuvox palm CONFIGURATION [options]"""
DESCRIPTION = f"Permutation inference with the options and the names of files of PALM (gpuvox {__version__})."
EPILOG = """\
A configuration is a text file with an option and its values on each line, as PREFIX_palmconfig.txt, which every run
writes. Statistics are turned into z before maxima, clusters and TFCE are taken. p are small where an effect is
significant. docs/palm.md describes every option, and where results differ from PALM's.
"""


@dataclass(frozen=True)
class Option:
    """An option.

    Attributes
    ----------
    values : str
        Its values, separated by blanks; those in brackets may be left out.
    text : str
        What it does.
    repeated : bool
        Whether it may be given more than once.
    """

    values: str = ""
    text: str = ""
    repeated: bool = False

    @property
    def least(self) -> int:
        """Values that it must have."""
        return sum(not value.startswith("[") for value in self.values.split())

    @property
    def most(self) -> int:
        """Values that it may have."""
        return len(self.values.split())


GROUPS: dict[str, dict[str, Option]] = {
    "inputs": {
        "-i": Option("FILE", "4D image, or a table of numbers (.csv), a row an observation (required)", True),
        "-m": Option("FILE", "mask: one for all inputs, or one for each", True),
        "-d": Option("FILE", "design: a table of numbers, or a VEST file (a mean, by sign flips)", True),
        "-t": Option("FILE", "t contrasts of the design of the same place", True),
        "-f": Option("FILE", "F contrasts: which of the t contrasts each stacks", True),
        "-evperdat": Option("FILE [COLUMN] [DESIGN]", "regressor with values for each voxel", True),
        "-designperinput": Option("", "the k-th design is for the k-th input alone"),
        "-imiss": Option("FILE", "what is missing of an input, 1, and what is there, 0", True),
        "-dmiss": Option("FILE", "the same of a design", True),
        "-mcar": Option("", "data are missing completely at random"),
        "-subjidx": Option("FILE", "numbers of the observations to analyse, from 1"),
        "-transposedata": Option("", "tables have a column for each observation"),
        "-reversemasks": Option("", "masks hold what is left out"),
    },
    "shufflings": {
        "-n": Option("N", "number of shufflings with the unpermuted one; 0: all (10000)"),
        "-ee": Option("", "errors are exchangeable: permute (the default without -ise)"),
        "-ise": Option("", "errors are independent and symmetric: flip signs"),
        "-eb": Option("FILE", "exchangeability blocks, one column or several"),
        "-within": Option("", "shuffle within blocks (the default)"),
        "-whole": Option("", "shuffle blocks as wholes"),
        "-cmcp": Option("", "draw shufflings with repeats"),
        "-cmcx": Option("", "count rows with equal regressors as different"),
        "-syncperms": Option("", "use one set of shufflings for all contrasts and designs"),
        "-seed": Option("N", "seed of the random numbers, or twist: another one in each run (0)"),
        "--permutations": Option("PREFIX", "use the shufflings saved as PREFIX_permidx.csv, PREFIX_c1_permidx.csv …"),
    },
    "model": {
        "-vg": Option("FILE|auto", "variance groups, as given or as the blocks have them: v and G"),
        "-removevgbysize": Option("N", "leave out the observations of variance groups with fewer than N"),
        "-pearson": Option("", "test r and R² in place of t and F"),
        "-demean": Option("", "remove the mean of data and design"),
        "-rmethod": Option("METHOD", "regression with nuisance variables (Freedman-Lane)"),
        "-pmethodr": Option("METHOD", "partition of the design: Beckmann or Guttman (Beckmann)"),
        "-tonly": Option("", "test the t contrasts alone"),
        "-fonly": Option("", "test the F contrasts alone"),
        "--palm-dof": Option("", "give v PALM's degrees of freedom, a third of the right ones"),
    },
    "inference": {
        "-T": Option("", "threshold-free cluster enhancement"),
        "-tfce_H": Option("H", "exponent of height (2)"),
        "-tfce_E": Option("E", "exponent of extent (0.5; 1 with -tfce2D, 2 with -tfce1D)"),
        "-tfce_C": Option("C", "neighbours: 6, 18 or 26 (6; 26 with -tfce2D)"),
        "-tfce_dh": Option("DH", "step of height (a hundredth of the maximum of each map)"),
        "-tfce1D": Option("", "TFCE of series: tables whose columns are in order"),
        "-tfce2D": Option("", "TFCE of skeletons and surfaces in volumes"),
        "-C": Option("Z", "cluster-forming threshold, as a z"),
        "-Cstat": Option("NAME", "extent or mass of clusters (extent)"),
        "-twotail": Option("", "test both directions of t, v and r"),
        "-corrcon": Option("", "correct over contrasts and designs too"),
        "-corrmod": Option("", "correct over inputs too"),
        "-fdr": Option("[BH|BKY]", "control the false discovery rate (BKY)"),
        "-accel": Option("METHOD [N]", "approximate p: tail, gamma, negbin or noperm"),
    },
    "outputs": {
        "-o": Option("PREFIX", "beginning of the names of all files (palm)"),
        "-save1-p": Option("", "write 1 - p in place of p"),
        "-logp": Option("", "write -log10 p in place of p"),
        "-zstat": Option("", "write statistics as z"),
        "-nouncorrected": Option("", "write no uncorrected p"),
        "-saveparametric": Option("", "write parametric p too"),
        "-savedof": Option("", "write degrees of freedom"),
        "-saveglm": Option("", "write contrasts of parameter estimates, their variances and effect sizes"),
        "-savemax": Option("", "write the maximum of each shuffling"),
        "-saveperms": Option("", "write the shufflings, and the statistic of each"),
        "-savemask": Option("", "write the masks that were used"),
        "-verbosefilenames": Option("", "number modalities, designs and contrasts even if there is one"),
        "-conskipcount": Option("N", "begin to number contrasts after N"),
    },
    "computing": {
        "--device": Option("NAME", "auto, cpu, cuda (all GPUs), cuda:i or cuda:i,j (auto)"),
        "--threads": Option("N", "number of threads (all processors)"),
        "-quiet": Option("", "print only warnings and errors"),
    },
}  # fmt: skip
OPTIONS = {name: option for group in GROUPS.values() for name, option in group.items()}

NOTED = {
    "-noniiclass": (0, "it chooses PALM's reader of images, and changes nothing here"),
    "-noranktest": (0, "the rank of designs is found once, which takes no time"),
    "-precision": (1, "float32 is used where float64 cannot change a result, whatever it says"),
    "-advanced": (0, "gpuvox palm --help shows all options"),
    "-savemetrics": (0, "metrics of permutations are not computed"),
}
"""Options that change nothing here: the most values that they have, and why."""
MULTIVARIATE = (
    "multivariate tests (-mv, -inputmv, -con, -cca, -pls) are not there yet; each input is tested by itself"
)
COMBINED = (
    "nonparametric combination (-npc, -npcmod, -npccon) is not there yet; -corrmod and -corrcon correct over tests"
)
REFUSED = {
    **dict.fromkeys(("-npc", "-npcmod", "-npccon", "-npcmethod", "-concordant", "-Tnpc", "-Cnpc"), COMBINED),
    **dict.fromkeys(("-mv", "-inputmv", "-con", "-cca", "-pls", "-Tmv", "-Cmv", "-pmethodp"), MULTIVARIATE),
    "-nounivariate": "univariate tests are all that there are yet, so they cannot be left out",
    "-s": "surfaces are not there yet; volumes and tables are analysed",
    "-inormal": "data are not transformed; transform them before, which permits to look at them",
    "-probit": "data are not transformed; transform them before, which permits to look at them",
    "-ev4vg": "variance groups do not get regressors of their own; add them to the design",
    "-vgdemean": "data are not centred within variance groups; add the groups to the design",
    "-tableasvolume": "tables are analysed as tables, without neighbours (-tfce1D: columns in order)",
    "-boot": "the bootstrap is not there; shufflings are permutations and sign flips",
}
"""Options that are not there, and what to do."""
ALSO = {"-tfce1d": "-tfce1D", "-tfce2d": "-tfce2D", "-save1p": "-save1-p", "-device": "--device",
        "-threads": "--threads", "-permutations": "--permutations", "--quiet": "-quiet", "--seed": "-seed",
        "-pmethod": "-pmethodr", "-Tuni": "-T", "-Cuni": "-C"}  # fmt: skip
"""Other spellings, and options that are the same where no test is multivariate."""


@dataclass
class Words:
    """The words of a command: its options with their values, and what is to be noted of them.

    Attributes
    ----------
    given : dict
        Option → the values of each time that it was given.
    notes : list of str
        Sentences.
    """

    given: dict[str, list[list[str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __contains__(self, option: str) -> bool:
        return option in self.given

    def all(self, option: str) -> tuple[str, ...]:
        """The first value of each time that the option was given."""
        return tuple(values[0] for values in self.given.get(option, []) if values)

    def one(self, option: str, otherwise: str = "") -> str:
        """The value of an option; `UsageError` if it has several."""
        values = self.all(option)
        return values[0] if values else otherwise


def read_words(words: list[str]) -> Words:
    """The options of a command.

    Raises
    ------
    UsageError
        An option is unknown, not supported, has too few values, or is given twice with different ones; or a word is
        no option.
    """
    read = Words()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        word, attached = _detached(word)
        name = ALSO.get(word, word)
        if name in REFUSED:
            raise UsageError(f"{word}: {REFUSED[name]}", option=name)
        if name in NOTED:
            _take(rest, NOTED[name][0])
            read.notes.append(f"{word} is ignored: {NOTED[name][1]}")
            continue
        if name not in OPTIONS:
            raise _unknown(word)
        option = OPTIONS[name]
        values = [*attached, *_take(rest, option.most - len(attached))]
        if len(values) < option.least:
            raise UsageError(f"the value of {name} is missing; see gpuvox palm --help", option=name)
        _add(read, name, values, option.repeated)
    return read


def _detached(word: str) -> tuple[str, list[str]]:
    """``--device=cpu`` → the option and its value; only of options with two dashes."""
    name, sign, value = word.partition("=")
    return (name, [value]) if sign and name.startswith("--") else (word, [])


def _add(read: Words, name: str, values: list[str], repeated: bool) -> None:
    before = read.given.setdefault(name, [])
    if repeated or not before:
        before.append(values)
    elif before[0] != values:
        shown = [" ".join(each) or "nothing" for each in (before[0], values)]
        raise UsageError(
            f"{name} is given twice, with {shown[0]} and with {shown[1]}; one is expected", option=name
        )


def _take(rest: list[str], most: int) -> list[str]:
    """The words that are values: up to the next option; a negative number is a value."""
    taken: list[str] = []
    while rest and len(taken) < most and not is_option(rest[0]):
        taken.append(rest.pop(0))
    return taken


def is_option(word: str) -> bool:
    """Whether a word is an option, and not the value of one."""
    return word.startswith("-") and not re.fullmatch(r"-(\d|\.\d).*|-", word)


def _unknown(word: str) -> UsageError:
    if not is_option(word):
        return UsageError(f"{word!r} is neither an option nor the value of one; see gpuvox palm --help")
    known = [*OPTIONS, *NOTED, *REFUSED]
    close = difflib.get_close_matches(word, known, 1, 0.6) or _without_case(word, known)
    hint = f"; the closest is {close[0]}" if close else ""
    return UsageError(f"unknown option {word}{hint}; see gpuvox palm --help", option=word)


def _without_case(word: str, known: list[str]) -> list[str]:
    lower: Mapping[str, str] = {name.lower(): name for name in known}
    return [lower[name] for name in difflib.get_close_matches(word.lower(), list(lower), 1, 0.6)]


def build_parser() -> Parser:
    """A parser of these options: for their help, and for completion in shells; `read_words` reads them."""
    parser = Parser(prog="gpuvox palm", usage=USAGE, description=DESCRIPTION, epilog=EPILOG)
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, option in options.items():
            text = option.text + ("; may be repeated" if option.repeated else "")
            if not option.most:
                group.add_argument(name, action="store_true", help=text)
            elif option.least:
                group.add_argument(name, metavar=option.values, help=text, action="append", default=[])
            else:
                group.add_argument(name, metavar=option.values.strip("[]"), help=text, nargs="?", default="")
    return parser
