"""What a run of ``gpuvox palm`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

SCALES = ("p", "1-p", "-log10 p")
REGRESSIONS = (
    "Freedman-Lane", "Draper-Stoneman", "Manly", "terBraak", "Kennedy", "Dekker", "Still-White", "Huh-Jhun",
)  # fmt: skip
PARTITIONS = ("Beckmann", "Guttman")
ACCELERATIONS = ("", "tail", "gamma", "negbin", "noperm")


def is_table(name: str) -> bool:
    """Whether an input is a table, by its name."""
    return name.lower().endswith((".csv", ".txt", ".tsv"))


@dataclass(frozen=True)
class Regressor:
    """A regressor with values for each voxel: ``-evperdat``.

    Attributes
    ----------
    file : str
    column : int
        Column of the design that it replaces, from 1, or the one after the last, which it then becomes.
    design : int
        Number of the design, from 1.
    """

    file: str
    column: int = 1
    design: int = 1


@dataclass(frozen=True)
class Exchangeability:
    """What may be shuffled, and how.

    Attributes
    ----------
    blocks : str
        File of exchangeability blocks.
    within, whole : bool
        With one column of blocks: rows are shuffled within them; blocks are shuffled as wholes.
    permute, flip : bool
        Errors are exchangeable, so that rows may be permuted; they are symmetric, so that signs may be flipped.
    number : int
        Shufflings, the unpermuted one included; 0 for all.
    seed : int
    repeats, all_differ : bool
        ``-cmcp``: shufflings are drawn with repeats; ``-cmcx``: rows with equal regressors count as different.
    together : bool
        All contrasts and designs share one set of shufflings, even if no correction asks for it.
    permutations : str
        Prefix of the files of shufflings that replace drawn ones.
    groups : str
        Variance groups: "auto", or a file; equal variances if empty.
    least_group : int
        Observations of variance groups with fewer than that many are left out.
    """

    blocks: str = ""
    within: bool = False
    whole: bool = False
    permute: bool = True
    flip: bool = False
    number: int = 10_000
    seed: int = 0
    repeats: bool = False
    all_differ: bool = False
    together: bool = False
    permutations: str = ""
    groups: str = ""
    least_group: int = 1


@dataclass(frozen=True)
class Statistic:
    """How each voxel is tested.

    Attributes
    ----------
    regression : str
        One of `REGRESSIONS`.
    partition : str
        One of `PARTITIONS`.
    pearson : bool
        r and R² in place of t and F.
    demean : bool
    two_tailed : bool
    z : bool
        Maps of statistics hold z.
    t_only, f_only : bool
    palm_dof : bool
        v has PALM's degrees of freedom, a third of the right ones.
    """

    regression: str = "Freedman-Lane"
    partition: str = "Beckmann"
    pearson: bool = False
    demean: bool = False
    two_tailed: bool = False
    z: bool = False
    t_only: bool = False
    f_only: bool = False
    palm_dof: bool = False


@dataclass(frozen=True)
class Spatial:
    """Statistics of space.

    Attributes
    ----------
    tfce : bool
    dimensions : {1, 2, 3}
        Of TFCE's defaults.
    H, E : float, optional
    connectivity : int, optional
    step : float, optional
        Step of height; by default a hundredth of the maximum of each map.
    threshold : float, optional
        Cluster-forming threshold, as a z.
    mass : bool
        The mass of clusters, not their extent.
    """

    tfce: bool = False
    dimensions: int = 3
    H: float | None = None
    E: float | None = None
    connectivity: int | None = None
    step: float | None = None
    threshold: float | None = None
    mass: bool = False


@dataclass(frozen=True)
class Saved:
    """What is written besides statistics and corrected p.

    Attributes
    ----------
    uncorrected, parametric, dof, glm, maxima, permutations, mask : bool
    scale : str
        One of `SCALES`.
    all_numbers : bool
        Names of files have the numbers of modality, design and contrast even where there is only one.
    first_contrast : int
        Number of the first contrast of each design.
    """

    uncorrected: bool = True
    parametric: bool = False
    dof: bool = False
    glm: bool = False
    maxima: bool = False
    permutations: bool = False
    mask: bool = False
    scale: str = "p"
    all_numbers: bool = False
    first_contrast: int = 1


@dataclass(frozen=True)
class PalmDescription:
    """A run of ``gpuvox palm``.

    Attributes
    ----------
    inputs : tuple of str
        A file for each modality.
    prefix : str
        Beginning of the names of all outputs.
    masks : tuple of str
        None, one for all modalities, or one for each.
    designs, contrasts, f_contrasts : tuple of str
        The k-th contrasts belong to the k-th design. There may be fewer `f_contrasts`.
    design_per_input : bool
        The k-th design is for the k-th modality alone.
    regressors : tuple of Regressor
    missing, missing_designs : tuple of str
        Indicators of missing data, for each input and each design.
    over_contrasts, over_modalities : bool
        p are also corrected over contrasts and designs; over modalities.
    false_discovery : str
        BH or BKY; none if empty.
    acceleration : str
        One of `ACCELERATIONS`.
    exceedances : int
        Of ``-accel negbin``.
    subjects : str
        File with the numbers of the observations that are analysed; all if empty.
    transpose : bool
        Tables have a column for each observation.
    reverse_masks : bool
        Masks hold what is left out.
    exchangeability, statistic, spatial, saved
    device, threads
        Where the permutations run; see `cuda.resolve_all` and `executors.run`.
    configuration : tuple of str
        Lines from which the run can be repeated: an option and its values each.
    """

    inputs: tuple[str, ...]
    prefix: str = "palm"
    masks: tuple[str, ...] = ()
    designs: tuple[str, ...] = ()
    contrasts: tuple[str, ...] = ()
    f_contrasts: tuple[str, ...] = ()
    design_per_input: bool = False
    regressors: tuple[Regressor, ...] = ()
    missing: tuple[str, ...] = ()
    missing_designs: tuple[str, ...] = ()
    over_contrasts: bool = False
    over_modalities: bool = False
    false_discovery: str = ""
    acceleration: str = ""
    exceedances: int = 2
    subjects: str = ""
    transpose: bool = False
    reverse_masks: bool = False
    exchangeability: Exchangeability = field(default_factory=Exchangeability)
    statistic: Statistic = field(default_factory=Statistic)
    spatial: Spatial = field(default_factory=Spatial)
    saved: Saved = field(default_factory=Saved)
    device: str = "auto"
    threads: int | None = None
    configuration: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether the inputs are tables, not images."""
        return is_table(self.inputs[0])

    @property
    def unit(self) -> str:
        """What the statistic of one element is called in names of files."""
        return "dat" if self.is_table else "vox"
