"""Tables of the report: any TSV, with columns named and numbers formatted as in a journal.

Numbers are shown rounded; every cell keeps the value of the file (``<data value="…">``), by which columns are sorted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gpuvox import files
from gpuvox.tables.columns import fitting

MISSING = ("", "n/a", "nan", "NaN")
DASH = "–"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Cell:
    """A cell: the HTML shown, and the key for sorting (a number or text as in the file; empty if missing)."""

    html: Markup
    key: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Heading:
    """The heading of a column: its name, its description, and whether the column is numeric."""

    html: Markup
    title: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes
    ----------
    id : str
        Anchor.
    caption : str
    headings : tuple of Heading
    rows : list of list of Cell
        The first cell is the row's heading.
    note : str
        Below the table.
    """

    id: str
    caption: str
    headings: tuple[Heading, ...]
    rows: list[list[Cell]]
    note: str = ""


# -- numbers --------------------------------------------------------------------------------------------------------


def number(text: str) -> float:
    """The number in a cell; NaN if there is none."""
    try:
        return math.nan if text.strip() in MISSING else float(text)
    except ValueError:
        return math.nan


def p_text(p: float, level: float = 0.05) -> str:
    """A p-value with three decimals and no leading zero; more if these would hide on which side of the level it is."""
    if math.isnan(p):
        return DASH
    if p < 0.001:
        return "<\u00a0.001"
    digits = next((n for n in range(3, 9) if round(p, n) != round(level, n)), 3)
    text = f"{min(p, 1):.{digits}f}"
    return text[1:] if text.startswith("0") else text


def p_phrase(p: float, level: float = 0.05) -> str:
    """``p < .001``, ``p = .032``."""
    text = p_text(p, level)
    return f"p\u00a0{text}" if text.startswith("<") else f"p\u00a0=\u00a0{text}"


def significant(value: float, digits: int = 3) -> str:
    """A number with a number of significant digits; longer whole numbers are not rounded."""
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if size < -4 or size > 8:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10".replace("-", "−") + str(int(exponent)).translate(SUPERSCRIPT)
    return fixed(value, max(0, digits - 1 - size))


def fixed(value: float, decimals: int) -> str:
    """A number with fixed decimals; with a true minus sign, but no minus zero."""
    if math.isnan(value):
        return DASH
    text = f"{value:.{decimals}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "−")


def _data(text: str, shown: str) -> Markup:
    return Markup('<data value="{}">{}</data>').format(text, shown)


# -- columns --------------------------------------------------------------------------------------------------------

ITALIC = {
    "f": "F", "t": "t", "p": "p", "d": "d", "n": "n", "r": "r", "b": "B", "B": "B", "F": "F", "beta": "β",
    "z": "z", "N": "N",
}  # fmt: skip
HEADINGS: dict[str, str] = {
    "participant_id": "Participant", "variable": "Variable", "level": "Level", "family": "Family",
    "transform": "Transformation", "difference": "Difference", "difference_se": "Difference, SE",
    "df": "df", "df1": "df", "df_group": "df", "df_residual": "df, residual", "p_corrected": "p, corrected",
    "family_size": "Tests in family", "levene_f": "Levene F", "levene_p": "Levene p", "lilliefors_d": "Lilliefors D",
    "lilliefors_p": "Lilliefors p", "skewness": "Skewness", "skewness_before": "Skewness, untransformed",
    "slopes_f": "Slopes F", "slopes_df": "Slopes df", "slopes_p": "Slopes p", "note": "Note", "test": "Test",
    "statistic_name": "Statistic", "statistic": "Value", "model": "Model", "outcome": "Outcome", "block": "Block",
    "predictor": "Predictor", "predictors": "Predictors", "r2": "R²", "r2_change": "ΔR²", "r2_adjusted": "R², adjusted",
    "f_change": "F change", "p_change": "p of change", "se": "SE", "vif": "VIF", "low": "Low", "high": "High",
    "cluster": "Cluster", "voxels": "Voxels", "mm3": "Volume (mm³)", "regions": "Regions",
    "power": "Power", "alpha": "α", "effect": "Effect (SD)", "method": "Method", "x": "x", "y": "y",
    "structure": "Structure", "side": "Side", "map": "Map", "mean": "Mean", "median": "Median", "sd": "SD",
    "n_first": "First group, n", "n_second": "Second group, n", "mean_first": "First group, mean",
    "mean_second": "Second group, mean", "r2_covariates": "R² of covariates", "n_t_test": "n per arm, t test",
    "n_ancova": "n per arm, ANCOVA", "volume": "Volume (mL)", "given": "Given",
    "bootstrap_resamples": "Resamples that determine it", "bootstrap_bias": "Bias, bootstrap",
    "bootstrap_se": "SE, bootstrap", "bootstrap_p": "p, bootstrap", "f_model": "F of the model",
    "df_model": "df of the model", "p_model": "p of the model", "r2_nagelkerke": "R², Nagelkerke",
    "r2_mcfadden": "R², McFadden", "auc": "AUC", "chi2_change": "χ² of change", "chi2_model": "χ² of the model",
    "event": "Event", "against": "Compared with", "groups": "Groups", "odds_ratio": "Odds ratio",
    "breusch_pagan": "Breusch–Pagan χ²",
    "breusch_pagan_df": "Breusch–Pagan df", "breusch_pagan_p": "Breusch–Pagan p",
    "cook_largest": "Cook’s distance, largest",
    "cook_participant": "Participant with it", "cook_large": "Cook’s distances above 4/n",
    "outlier_largest": "Studentised residual, largest", "outlier_participant": "Its participant",
    "outlier_p": "Its p (Bonferroni)", "transformation": "Transformation", "formula": "Formula", "kurtosis": "Kurtosis",
    "chi2": "χ²", "p_adjusted": "p, adjusted for pairs",
    "first": "First group", "second": "Second group", "eta2_partial": "η², partial", "minimum": "Minimum",
    "maximum": "Maximum", "q1": "Quartile 1", "q3": "Quartile 3", "iqr": "Interquartile range",
    "difference_cohort": "Difference, cohort’s CSF",
    "difference_subject": "Difference, own CSF", "d_cohort": "d, cohort’s CSF", "d_subject": "d, own CSF",
    "same_sign": "Draws of the same sign",
    "significant": "Draws with p < .05", "decided": "Draws with the same conclusion",
    "p_cohort": "p, cohort’s CSF", "p_subject": "p, own CSF", "csf_share": "Share of variance from CSF",
    "n_visits": "Visits", "change": "Change per year", "z": "z", "baseline": "At baseline", "percent": "% per year",
    "sd_intercept": "SD of intercepts", "sd_slope": "SD of changes", "sd_residual": "SD of residuals",
    "sd_change": "SD of an estimated change", "n_two_arms": "n per arm, two arms", "n_one_arm": "n, one arm",
    "effect_adjusted": "Effect, adjusted (SD)", "d_adjusted": "d, adjusted",
    "peak": "Peak", "peak_region": "Region of the peak", "estimate": "Estimate", "partialr": "Partial r",
    "partialetasq": "Partial η²", "correction": "Correction", "smallest_p": "Smallest p", "clusters": "Clusters",
}  # fmt: skip
HEADINGS_BESIDE = {
    "change": {"effect": "Effect"},
    "sd_intercept": {"effect": "Effect", "correlation": "Correlation of intercepts and changes"},
    "n_one_arm": {"effect": "Change that is removed"},
    "same_sign": {"d": "<i>d</i> [95 % of the draws]"},
}
"""Headings of columns in tables that have another column, the key."""
GROUPED = (
    ("n_", "{} n"), ("mean_", "{}, mean"), ("sd_", "{}, SD"), ("median_", "{}, median"), ("q1_", "{}, quartile 1"),
    ("q3_", "{}, quartile 3"), ("count_", "{}, count"), ("summary_", "{}"), ("adjusted_mean_", "{}, adjusted mean"),
    ("adjusted_se_", "{}, adjusted SE"),
)  # fmt: skip
INTERVALS = {"low": "95 % CI", "bootstrap_low": "95 % CI, percentile", "bca_low": "95 % CI, BCa"}
TESTS = {
    "student": "Student", "welch": "Welch", "mannwhitney": "Mann–Whitney", "anova": "ANOVA",
    "welch_anova": "Welch ANOVA", "kruskal": "Kruskal–Wallis", "fisher": "Fisher exact", "chi2": "Pearson χ²",
    "pearson": "Pearson", "spearman": "Spearman",
}  # fmt: skip
NAMES_IN = ("variable", "outcome", "predictor", "predictors", "model", "block", "x", "y", "given", "feature")
"""Columns whose cells are names of variables."""
LABELS = ("model", "block")
"""Those that only identify the model: transformations are not marked there."""
TRANSFORMED = (
    "For variables in log(…), the logarithm was compared: means and SDs are those of the original values; "
    "differences, adjusted means, tests and d are those of the logarithms."
)
UNDETERMINED = "There is no bootstrap interval where too few of the resamples determine the statistic."
TWO_DECIMALS = (
    "f", "t", "F", "d", "levene_f", "slopes_f", "f_change", "skewness", "skewness_before", "vif", "statistic", "effect",
    "d_cohort", "d_subject", "d_low", "d_high", "chi2_change", "chi2_model", "chi2", "breusch_pagan", "z", "kurtosis",
    "f_model", "outlier_largest", "odds_ratio", "d_adjusted", "effect_adjusted",
)  # fmt: skip
THREE_DECIMALS = (
    "r",
    "r2",
    "r2_change",
    "r2_adjusted",
    "r2_covariates",
    "beta",
    "lilliefors_d",
    "csf_share",
    "same_sign",
    "significant",
    "decided",
    "eta2_partial",
    "r2_nagelkerke",
    "r2_mcfadden",
    "auc",
    "cook_largest",
)
ADDITIONAL = re.compile(
    r"levene_|lilliefors_|skewness|slopes_|adjusted_(mean|low|high)_|family_size|transform$|bootstrap_"
    r"|r2_adjusted$|df_model$"
)
"""Columns that are shown separately, on demand."""
OTHER_EFFECT_SIZE = ("eta2_partial", "eta2_partial_low", "eta2_partial_high")
"""Columns that are shown separately beside Cohen's d."""
DISTRIBUTION = ("minimum", "maximum", "median", "q1", "q3", "iqr")
"""Columns that are shown separately beside a test of the mean."""
VARIANCES = ("sd_intercept", "sd_slope", "correlation", "sd_residual")
"""Columns that are shown separately beside the change of a mixed model."""
LEFT_OUT = re.compile(r"adjusted_se_|difference_se$")
"""Columns that are redundant beside confidence intervals."""
LEADING = ("groups", "variable", "level", "model", "block", "predictor", "x", "y")
"""Columns that identify a row."""
LEADING_MIXED = ("outcome", "effect")
"""Those of a mixed model."""
CONSTANT = (
    "against",
    "outcome",
    "given",
    "method",
    "family",
    "family_size",
    "n",
    "transform",
    "bootstrap_resamples",
)
"""Columns that become a note if they are the same in all rows."""
SUMMARISED = re.compile(r"(n|count|mean|sd|median|q1|q3)_")
"""Columns that ``summary_…`` summarises."""
IS_P = re.compile(r"p|p_.*|.*_p")


def heading_of(name: str) -> Markup:
    """A column's heading; statistics in italics."""
    if name in ITALIC:
        return Markup("<i>{}</i>").format(ITALIC[name])
    for start, text in GROUPED:
        if name.startswith(start) and name not in HEADINGS:
            group = text.format(name.removeprefix(start))
            return Markup("{}<i>n</i>").format(group[:-1]) if start == "n_" else Markup.escape(group)
    of_comparison = re.fullmatch(r"(test|statistic|note)_(.+)", name)
    if of_comparison and name not in HEADINGS:
        return Markup("{}, {}").format(HEADINGS[of_comparison[1]], of_comparison[2])
    plain = HEADINGS.get(name, name.replace("_", " "))
    # A statistic's letter within a name.
    return Markup(re.sub(r"\b([pFtDn])\b(?! test)", r"<i>\1</i>", str(Markup.escape(plain))))


IN_WORDS = {
    "mass raw": "mass (raw volume)", "qsm share": "share of QSM", "r1 share": "share of R1",
    "qsm variance share": "share of QSM’s variance", "r1 variance share": "share of R1’s variance",
}  # fmt: skip
ABBREVIATIONS = {"edss": "EDSS", "bmi": "BMI"}


def variable_name(name: str) -> str:
    """A variable in words.

    ``left.pallidum.iron.mass`` is "left pallidum, iron mass", ``iron_A_gt_B.1`` is "iron A > B, cluster 1".
    """
    if name in ABBREVIATIONS:
        return ABBREVIATIONS[name]
    if ": " in name:  # a model of several outcomes: the outcome and its last block
        return ": ".join(variable_name(part) for part in name.split(": "))
    parts = name.replace("_", " ").split(".")
    parts[1:] = [IN_WORDS.get(part, part) for part in parts[1:]]
    side = [parts.pop(0)] if len(parts) > 1 and parts[0] in ("left", "right") else []
    if len(parts) > 1 and parts[1].isdigit():
        parts[0] = parts[0].replace(" gt ", " > ").replace(" lt ", " < ").replace(" minus ", " − ")
        parts[1] = f"cluster {parts[1]}"
    first = " ".join([*side, parts[0]])
    return ", ".join([first, " ".join(parts[1:])]) if len(parts) > 1 else first


def of_formula(formula: str, name: str) -> str:
    """A formula of x with the name of a variable in its place: ``log(x + 0.5)`` is "log(lesion load + 0.5)"."""
    shifted = re.fullmatch(r"log\(x \+ (.+)\)", formula)
    if shifted:
        return f"log({name} + {significant(number(shifted[1]))})"
    return re.sub(r"\bx\b", lambda match: name, formula)


UNITS = {
    "volume": "mL", "volume normalised": "mL", "iron mass": "mg", "iron mass (raw volume)": "mg", "myelin mass": "mL",
    "myelin mass (raw volume)": "mL",
}  # fmt: skip
"""Of measures of regions, as `gpuvox rois` writes them."""
OF_TISSUE = {"iron": "mg/kg", "myelin": ""}
"""Units of iron and of myelin, where their model is not known to have others; fractions have none."""


def unit_of(name: str, of_tissue: Mapping[str, str] = OF_TISSUE) -> str:
    """The unit of a measure of a region, ``mg/kg`` of ``left.pallidum.iron``; empty if it has none, or is not one.

    `of_tissue` has those of iron and myelin; with the key ``.iron``, also that of a variable that is called iron.
    """
    measure, _ = measure_and_structure(name)
    return UNITS.get(measure) or of_tissue.get(re.sub(r" (median|sd)$", "", measure) or f".{name}", "")


Transforms = Sequence[tuple[str, str]]
"""Formulas of x, each with a pattern of the variables that were transformed so: ``("log(x)", "lesion_load")``."""


def analysed_name(name: str, log: Transforms) -> str:
    """A variable in words, in the formula of its transformation if a pattern fits it; ``a:b`` as ``a × b``."""
    parts = re.split(r":(?! )", name)
    if len(parts) > 1:
        return " × ".join(analysed_name(part, log) for part in parts)
    shown = variable_name(name)
    formula = next((formula for formula, pattern in log if fitting([name], pattern)), "x")
    return of_formula(formula, shown)


def measure_and_structure(name: str) -> tuple[str, str]:
    """What is measured and where: ``left.pallidum.iron.mass`` is (iron mass, left pallidum); else ("", name)."""
    structure, comma, measure = variable_name(name).rpartition(", ")
    return (measure, structure) if comma else ("", measure)


@dataclass(frozen=True)
class Column:
    """A column of the table as it is shown: one of the file's, or several together."""

    names: tuple[str, ...]
    heading: Heading
    cell: Callable[[Sequence[str], int | None], Cell]
    """Of the texts of the columns, and the decimals of the row for them; None where each cell has its own."""


def columns_of(
    names: Sequence[str], explained: Mapping[str, str], level: float, log: Transforms = ()
) -> list[Column]:
    """Columns as shown: mean with SD, an estimate with its interval, two degrees of freedom together."""
    known, used = set(names), set[str]()
    columns = []
    for name in names:
        if name in used:
            continue
        column = _together(name, known, {"r", "r2_change"} & known != set()) or Column(
            (name,), _heading(name), _one(name, level, log)
        )
        used.update(column.names)
        titles = [explained[part] for part in column.names if part in explained]
        here = next((Markup(of[name]) for key, of in HEADINGS_BESIDE.items() if key in known and name in of), None)
        heading = Heading(here or column.heading.html, "; ".join(titles), column.heading.numeric)
        columns.append(Column(column.names, heading, column.cell))
    return columns


def _heading(name: str) -> Heading:
    return Heading(heading_of(name))


def _together(name: str, known: set[str], bounded: bool) -> Column | None:
    """Several columns as one; `bounded`: intervals are of correlations or shares of variance."""
    group = name.removeprefix("mean_")
    if name.startswith("mean_") and f"sd_{group}" in known:
        return Column((name, f"sd_{group}"), Heading(Markup.escape(f"{group}, mean (SD)")), _mean_and_sd)
    adjusted = tuple(name.replace("_mean_", f"_{part}_") for part in ("mean", "low", "high"))
    if name.startswith("adjusted_mean_") and set(adjusted) <= known:
        return Column(
            adjusted,
            Heading(heading_of(name) + Markup(" [95 % CI]")),
            lambda texts, row: _interval(texts, name, row),
        )
    if name == "df_group" and "df_residual" in known:
        return Column((name, "df_residual"), Heading(Markup("df")), _pair)
    if name == "df1" and "df2" in known:
        return Column((name, "df2"), Heading(Markup("df")), _pair)
    low, high = f"{name}_low", f"{name}_high"
    if name == "d" and {low, high} <= known:
        html = heading_of(name) + Markup(" [95 % CI]")
        return Column((name, low, high), Heading(html), lambda texts, row: _interval(texts, name, 2))
    if {low, high} <= known and not _of_a_group(low):
        html = heading_of(name) + Markup(" [95 % CI]")
        return Column((name, low, high), Heading(html), lambda texts, row: _interval(texts, name, row))
    other = re.sub(r"(^|_)low$", r"\1high", name)
    if other != name and other in known and not _of_a_group(name):
        html = Markup(INTERVALS[name]) if name in INTERVALS else heading_of(name)
        return Column((name, other), Heading(html), lambda texts, row: _ends(texts, 3 if bounded else row))
    return None


def _of_a_group(name: str) -> bool:
    """Whether the end of a column's name is that of a group, which may be called ``low``."""
    return name.startswith(tuple(start for start, _ in GROUPED))


def _mean_and_sd(texts: Sequence[str], decimals: int | None) -> Cell:
    mean, sd = number(texts[0]), number(texts[1])
    if math.isnan(mean):
        return Cell(Markup(DASH))
    if decimals is None:
        decimals = _two_digits(sd) if sd > 1e-12 * abs(mean) else 3
    html = _data(texts[0], _alike([mean], decimals)[0])
    if not math.isnan(sd):
        html += Markup(" (") + _data(texts[1], _alike([sd], decimals)[0]) + Markup(")")
    return Cell(html, texts[0])


def _pair(texts: Sequence[str], decimals: int | None) -> Cell:
    if math.isnan(number(texts[0])):
        return Cell(Markup(DASH))
    return Cell(Markup(", ").join(_data(text, f"{number(text):g}") for text in texts), texts[1])


def _interval(texts: Sequence[str], name: str, decimals: int | None) -> Cell:
    value, *ends = (number(text) for text in texts)
    if math.isnan(value):
        return Cell(Markup(DASH))
    shown = _alike([value, *ends], 3 if name in THREE_DECIMALS else decimals)
    parts = [_data(text, s) for text, s in zip(texts, shown)]
    return Cell(parts[0] + Markup(" [{}, {}]").format(parts[1], parts[2]), texts[0])


def _ends(texts: Sequence[str], decimals: int | None) -> Cell:
    values = [number(text) for text in texts]
    if math.isnan(values[0]):
        return Cell(Markup(DASH))
    shown = _alike(values, decimals)
    return Cell(Markup("[{}, {}]").format(*(_data(t, s) for t, s in zip(texts, shown))), texts[0])


def _decimals_for(values: Iterable[float]) -> int | None:
    """Decimals that the largest number needs for three significant digits; None if it is very small or very large."""
    size = max((abs(v) for v in values if math.isfinite(v)), default=0)
    return max(0, 2 - math.floor(math.log10(size))) if 1e-4 <= size < 1e9 else None


def _alike(values: Sequence[float], decimals: int | None = None) -> list[str]:
    """Numbers with the same decimals, by default those of `_decimals_for`."""
    decimals = _decimals_for(values) if decimals is None else decimals
    if decimals is None:
        return [significant(v) for v in values]
    return [fixed(v, decimals) if math.isfinite(v) else significant(v) for v in values]


def _one(name: str, level: float, log: Transforms) -> Callable[[Sequence[str], int | None], Cell]:
    return lambda texts, decimals: _single(name, texts[0], level, log, decimals)


def _single(name: str, text: str, level: float, log: Transforms, decimals: int | None = None) -> Cell:
    if text.strip() in MISSING:
        return Cell(Markup(DASH))
    value = number(text)
    if math.isnan(value):
        shown = TESTS.get(text, text) if re.match(r"test(_|$)|method$", name) else text
        if name in NAMES_IN:
            patterns = () if name in LABELS else log
            shown = listed([analysed_name(part.strip(), patterns) for part in text.split(",")])
        if name == "peak_region":
            shown = text.replace("_", " ")
        shown = "χ²" if shown == "chi2" and name.startswith("statistic") else shown.replace(" %", "\u00a0%")
        return Cell(_data(text, shown), shown)
    if IS_P.fullmatch(name) and not _of_a_group(name):
        return Cell(_data(text, p_text(value, level)), text, value < level)
    return Cell(_data(text, _shown(name, text, value) if decimals is None else fixed(value, decimals)), text)


def listed(names: Sequence[str]) -> str:
    """Names in a row, with semicolons if one has a comma: ``caudate, iron; caudate, myelin``."""
    return ("; " if any(", " in name for name in names) else ", ").join(names)


def _shown(name: str, text: str, value: float) -> str:
    if name in THREE_DECIMALS and abs(value) < 1e6:
        return fixed(value, 3)
    if re.fullmatch(r"[+-]?\d+", text.strip()):
        return text.strip().replace("-", "−")
    two = name in TWO_DECIMALS or name.startswith("statistic_")
    return fixed(value, 2) if two and abs(value) < 1e6 else significant(value)


# -- tables ---------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a TSV, as text."""
    frame = files.read_table(path, long=True, may_be_empty=True)
    names = [str(name) for name in frame.columns]
    return names, [dict(zip(names, map(str, row))) for row in frame.itertuples(index=False, name=None)]


def make_table(
    id: str,
    caption: str,
    names: Sequence[str],
    rows: Iterable[Mapping[str, str]],
    *,
    level: float = 0.05,
    explained: Mapping[str, str] | None = None,
    log: Transforms = (),
    units: Mapping[str, str] = OF_TISSUE,
) -> Table:
    """A table of chosen columns, without those that are empty throughout."""
    kept = list(rows)
    filled = [n for n in names if not kept or any(row[n].strip() not in MISSING for row in kept)]
    columns = columns_of(filled, explained or {}, level, log)
    body = [[_cell(column, row, units) for column in columns] for row in kept]
    headings = tuple(
        Heading(column.heading.html, column.heading.title, _numeric([row[i] for row in body]))
        for i, column in enumerate(columns)
    )
    return Table(id, caption, headings, body)


def _cell(column: Column, row: Mapping[str, str], units: Mapping[str, str]) -> Cell:
    """A cell; the name of a variable that was transformed, in the formula, and with its unit."""
    cell = column.cell([row[name] for name in column.names], row_decimals(column.names[0], row))
    if column.names == ("outcome",):
        unit = "" if "(" in cell.key else unit_of(row["outcome"], units)
        return Cell(cell.html + Markup.escape(f" ({unit})"), cell.key) if unit else cell
    if column.names != ("variable",):
        return cell
    name = row["variable"]
    shown = of_formula(row["transform"], variable_name(name)) if _is_transformed(row) else variable_name(name)
    unit = unit_of(name, units)
    return Cell(_data(name, f"{shown} ({unit})" if unit else shown), cell.key)


MEANS = re.compile(r"(mean|median|q1|q3)(_.+)?|sd(_.+)?|minimum|maximum|iqr|low|high")
"""Columns in the unit of the variable."""
ESTIMATES = re.compile(r"difference(_cohort|_subject)?(_se|_low|_high)?|adjusted_(mean|se|low|high)_.+")
"""Columns in the unit of the variable, or of its transformation."""
COEFFICIENTS = ("B", "se", "low", "high", "bootstrap_low", "bootstrap_high", "bca_low", "bca_high")
CHANGES = ("change", "se", "low", "high", "baseline", "sd_intercept", "sd_slope", "sd_residual")
TRIALS = ("effect", "sd_change")


def row_decimals(name: str, row: Mapping[str, str]) -> int | None:
    """The decimals that all numbers of one unit in a row share; None for a column whose decimals are its own.

    For means, SDs, differences and adjusted means: two digits of the SD, the root mean square of those of the groups.
    For a regression coefficient with its standard error and intervals: three digits of the largest. For a change per
    year with what a mixed model has beside it: two digits of its standard error; for what a trial removes, of the SD.
    """
    for names, precise in ((CHANGES, "se"), (TRIALS, "sd_change")):
        if name in names and names[0] in row and precise in row:
            return _two_digits(number(row[precise]))
    if name in COEFFICIENTS and "B" in row:
        return _decimals_for(number(row[each]) for each in COEFFICIENTS if each in row)
    if "variable" not in row or not (MEANS.fullmatch(name) or ESTIMATES.fullmatch(name)):
        return None
    alone = not any(each.startswith("sd") for each in row)
    if ESTIMATES.fullmatch(name) and (_is_transformed(row) or alone):
        return _decimals_for(number(text) for each, text in row.items() if ESTIMATES.fullmatch(each))
    spreads = [number(text) for each, text in row.items() if re.fullmatch(r"sd(_.+)?", each)]
    known = [sd for sd in spreads if sd > 0 and math.isfinite(sd)]
    if not known:
        return None
    return _two_digits(max(known) * math.sqrt(sum((sd / max(known)) ** 2 for sd in known) / len(known)))


def _two_digits(spread: float) -> int | None:
    """Decimals that show two digits of an SD or standard error; None if it is very small or very large."""
    if not (spread > 0 and math.isfinite(spread)):
        return None
    size = math.log10(spread)
    return max(0, 1 - math.floor(size)) if -7 <= size < 9 else None


def _lacks_interval(row: Mapping[str, str]) -> bool:
    """Whether there is a bootstrap, but too few resamples for an interval."""
    resamples = row.get("bootstrap_resamples", "").strip()
    return resamples not in MISSING and row.get("bootstrap_low", "").strip() in MISSING


def _is_transformed(row: Mapping[str, str]) -> bool:
    return row.get("transform", "").strip() not in ("none", *MISSING)


def _numeric(cells: Sequence[Cell]) -> bool:
    filled = [cell for cell in cells if cell.key]
    return bool(filled) and all(not math.isnan(number(cell.key)) for cell in filled)


def tables_of(
    id: str,
    caption: str,
    path: Path,
    *,
    level: float = 0.05,
    explained: Mapping[str, str] | None = None,
    log: Transforms = (),
    units: Mapping[str, str] = OF_TISSUE,
) -> list[Table]:
    """A file as one table, or two: the main columns, and the others. What is the same in all rows becomes a note.

    `log` are the transformations of variables that were analysed in all rows; rows with a ``transform`` say so
    themselves. `units` are those of iron and of myelin.
    """
    names, rows = read_rows(path)
    if any(name.startswith("summary_") for name in names):
        names = [name for name in names if not SUMMARISED.match(name)]
    names = [name for name in names if not (_empty(name, rows) or LEFT_OUT.match(name))]
    same = [name for name in names if len(rows) > 1 and _worth_a_note(name, rows)]
    told = [
        f"{heading_of(name).striptags()} {_single(name, rows[0][name], level, log).html.striptags()}"
        for name in same
    ]
    notes = [f"In all rows: {'; '.join(told)}."] if told else []
    notes += [TRANSFORMED] if any(map(_is_transformed, rows)) else []
    notes += [UNDETERMINED] if any(map(_lacks_interval, rows)) else []
    names = [name for name in names if name not in same]
    beside: tuple[str, ...] = DISTRIBUTION if any("against" in row for row in rows) else ()
    beside += OTHER_EFFECT_SIZE if {"d", "d_low"} <= set(names) else ()
    of_mixed = {"change", "sd_intercept"} <= set(names)
    beside += VARIANCES if of_mixed else ()
    more = [name for name in names if ADDITIONAL.match(name) or name in beside]
    make = partial(make_table, rows=rows, level=level, explained=explained, log=log, units=units)
    first = replace(make(id, caption, [n for n in names if n not in more]), note=" ".join(notes))
    if not more:
        return [first]
    leading = LEADING_MIXED if of_mixed else LEADING
    lead = [name for name in names if name in leading and name not in more]
    return [first, make(f"{id}-more", f"{caption}: further columns", [*lead, *more])]


def _worth_a_note(name: str, rows: Sequence[Mapping[str, str]]) -> bool:
    return (
        (name in CONSTANT or name.startswith("n_"))
        and len({row[name] for row in rows}) == 1
        and (rows[0][name].strip() not in MISSING)
    )


def _empty(name: str, rows: Sequence[Mapping[str, str]]) -> bool:
    blank = ("none", "all") if name in ("transform", "family") else ()
    return bool(rows) and all(row[name].strip() in (*MISSING, *blank) for row in rows)


OF_GROUPS = ("ancova", "pairs", "demographics", "description")
"""Parts of the record of a group table that describe columns."""


def explained_columns(record: Mapping[str, Any], part: str) -> dict[str, str]:
    """Descriptions of the columns, from the JSON file beside a table.

    Parameters
    ----------
    record : dict
    part : str
        Key of the columns: one of `OF_GROUPS` of group tables; end of the file's name of models.
    """
    texts: Any = record.get(part, {}).get("columns") if part in OF_GROUPS else None
    texts = record.get("columns", {}).get(part) if texts is None else texts
    return {str(name): str(text) for name, text in texts.items()} if isinstance(texts, Mapping) else {}
