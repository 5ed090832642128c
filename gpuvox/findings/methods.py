"""The methods of any run, written from its records, with citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuvox.findings.runs import Run, RunTest, correction_title
from gpuvox.findings.sentences import capital, level_text, listed
from gpuvox.findings.tested import ClusterOptions
from gpuvox.movement import FREELY

STATISTICS = ("t", "F")
SCHEMES = {
    "freedman_lane": " of the residuals of the nuisance model (Freedman–Lane [@freedman1983])",
    "kennedy": " of the effect of interest, from which nuisance variables were regressed (Kennedy)",
    "none": " of the data themselves (Manly)",
    "ter_braak": " of the residuals of the full model (ter Braak)",
}
"""What was permuted, by the scheme of nuisance variables in a record."""
SHUFFLES = {
    "permutations": "permutations{residuals}",
    "sign-flips": "flips of the signs",
    "permutations with sign-flips": "permutations{residuals} with flips of their signs",
}
"""Kinds of shuffles in sentences, by what records call them."""


def paragraphs(run: Run, options: ClusterOptions, notes: Sequence[str] = ()) -> list[str]:
    """The methods, a paragraph each: model, inference, results, software.

    Parameters
    ----------
    run : Run
    options : ClusterOptions
    notes : sequence of str
        Further sentences about the results, such as how an atlas was resampled.
    """
    parts = [_model(run), " ".join(_inference(run)), _results(run, options, notes), _software(run)]
    return [part for part in parts if part]


def _model(run: Run) -> str:
    record = run.record
    sentences = []
    if "model" in record:
        formula = str(record["model"])
        what = "the mean of all images" if formula == "1" else f"the formula {formula}"
        sentences.append(
            f"{record['rows']} images were analysed by a general linear model at every voxel, with {what}."
        )
        sentences += _rows(record)
        sentences += [f"{capital(str(note))}." for note in record.get("notes", ())]
    elif run.design is not None:
        n, p = run.design.shape
        columns = f" ({', '.join(run.columns)})" if run.columns else ""
        columns = f" of {p} column{'' if p == 1 else 's'}{columns}"
        sentences.append(f"{n} images were analysed by a general linear model{columns} at every voxel.")
    else:
        sentences.append("A general linear model was fitted at every voxel.")
    for test in run.tests:
        meaning = f", which tests whether {test.meaning}" if test.meaning else ""
        sentences.append(f"“{test.name}” is {_kind(test, run)} test{_with_degrees(test, run)}{meaning}.")
    return " ".join(sentences)


def _rows(record: Mapping[str, Any]) -> list[str]:
    """Which rows of the table were analysed, and what their images are."""
    sentences = []
    if record.get("subset"):
        sentences.append(
            f"{record['rows_of_subset']} of the {record['rows_of_table']} rows of the table were selected, by the "
            f"condition {record['subset']}."
        )
    if record.get("dropped"):
        count, what = len(record["dropped"]), "subject or visit" if record.get("longitudinal") else "row"
        what = f"{what} was" if count == 1 else f"{what.replace(' or ', 's or ')}s were"
        sentences.append(f"{count} {what} excluded for lack of an image or a value.")
    sentence = (record.get("longitudinal") or {}).get("sentence")
    return [*sentences, f"{capital(str(sentence))}."] if sentence else sentences


def _kind(test: RunTest, run: Run) -> str:
    """The statistic, with its article: v and G where groups differ in variance."""
    t, f = ("v", "a G") if run.record.get("variance_groups") else ("t", "an F")
    return f if test.kind == "F" else f"a two-sided {t}" if test.two_sided else f"a one-sided {t}"


def _with_degrees(test: RunTest, run: Run) -> str:
    """The degrees of freedom; those of v and G are told further on, for they differ between voxels."""
    if not test.df or run.record.get("variance_groups"):
        return ""
    most = "at most " if run.record.get("missing") == "voxelwise" else ""
    return f" with {most}{_degrees(test)} degrees of freedom"


def _degrees(test: RunTest) -> str:
    return " and ".join(f"{df:g}" for df in test.df)


def _inference(run: Run) -> list[str]:
    sentences = []
    names = list(dict.fromkeys(correction_title(desc) for test in run.tests for desc in test.corrected))
    if not names:
        return ["p-values were not computed."]
    schemes = {str(record.get("nuisance")) for record in run.records}
    residuals = SCHEMES.get(schemes.pop(), "") if len(schemes) == 1 else ""
    sentences.append(f"p-values were computed by {_counts(run.tests, residuals)}.")
    if run.record.get("missing") == "voxelwise":
        sentences.append(
            "Participants whose data were missing at a voxel were left out of the model there, and statistics were "
            "compared as normal scores, given the degrees of freedom at each voxel."
        )
    if run.record.get("variance_groups"):
        sentences.append(
            f"Variances were estimated in {len(run.record['variance_groups'])} groups apart: statistics were "
            "Aspin–Welch v and G [@winkler2014], compared as normal scores, given their degrees of freedom at each "
            "voxel."
        )
    sentences += _exchangeability(run)
    if any(desc.endswith("FWE") for test in run.tests for desc in test.corrected):
        sentences.append(
            "They were corrected for the family-wise error over the voxels of the mask: the corrected p-value is the "
            "proportion of permutations, including the unpermuted data, whose largest statistic in the mask reaches "
            "the observed value [@winkler2014]."
        )
    for law in dict.fromkeys(test.approximation for test in run.tests if test.approximation):
        sentences.append(f"p-values of voxels and of TFCE are approximations [@winkler2016], taken from {law}.")
    if any(desc.endswith("FDR") for test in run.tests for desc in test.corrected):
        sentences.append(
            "The false discovery rate was controlled by the adaptive procedure of Benjamini, Krieger and Yekutieli "
            "[@benjamini2006]."
            if run.record.get("false_discovery_rate") == "bky"
            else "The false discovery rate was controlled by the procedure of Benjamini and Hochberg [@benjamini1995]."
        )
    if any(desc.endswith("FWEacross") for test in run.tests for desc in test.corrected):
        sentences.append("Corrected p-values over all tests refer to the largest statistic of all of them.")
    elif len(run.tests) > 1:
        sentences.append("p-values are not corrected across tests.")
    z = bool(run.record.get("variance_groups")) or run.record.get("missing") == "voxelwise"
    sentences += statistics_sentences(run.records, {test.kind for test in run.tests}, names, z)
    return sentences


def _exchangeability(run: Run) -> list[str]:
    """What may be exchanged: as the run says, or else the tests, unless all rows are permuted freely."""
    if run.record.get("exchangeability"):
        return [f"{capital(str(run.record['exchangeability']))}."]
    said = dict.fromkeys(test.exchangeability for test in run.tests if test.exchangeability)
    return [f"{capital(each)}." for each in said if each != FREELY]


def _counts(tests: Sequence[RunTest], residuals: str) -> str:
    """How many permutations, or flips of signs, which tests had."""
    tests_of: dict[tuple[int, str, bool], list[str]] = {}
    for test in tests:
        tests_of.setdefault((test.permutations, test.method, test.repeats), []).append(f"“{test.name}”")
    parts = []
    for (count, method, repeats), names in tests_of.items():
        number = f"{count}" if count else "an unrecorded number of"
        what = f"{number} {SHUFFLES.get(method, SHUFFLES['permutations']).format(residuals=residuals)}"
        what += ", drawn with repeats" if repeats else ""
        parts.append(f"{what} for {listed(names)}" if len(tests_of) > 1 else what)
    return listed(parts)


def statistics_sentences(
    records: Sequence[Mapping[str, Any]], kinds: set[str], names: Sequence[str], z: bool = False
) -> list[str]:
    """Sentences about TFCE, clusters and the smoothing of variances: those of all records of a run.

    Parameters
    ----------
    records : sequence of dict
        Of runs of randomise.
    kinds : set of str
        The statistics that were tested, ``t`` and ``F``.
    names : sequence of str
        Corrections in words.
    z : bool
        What was tested, and has thresholds, are normal scores.
    """
    used = [
        (kind, statistics[kind])
        for record in records
        for statistics in [record.get("statistics") or {}]
        for kind in STATISTICS
        if kind in kinds and isinstance(statistics.get(kind), Mapping)
    ]
    sentences = []
    if any("TFCE" in name for name in names):
        settings = _alike([(kind, tfce_settings(each.get("tfce") or {})) for kind, each in used])
        sentences.append(
            f"TFCE is threshold-free cluster enhancement [@smith2009]{settings and f' ({settings})'}."
        )
        steps = [(each.get("tfce") or {}).get("delta") for _, each in used]
        if "robust" in steps:
            sentences.append(
                "Its step is one hundredth of the largest statistic, after excluding the influence of a few outlying "
                "voxels."
            )
    for key, what in (("extent", "The size"), ("mass", "The mass")):
        thresholds = [(kind, f"{'z' if z else kind} > {each[key]:.4g}") for kind, each in used if each.get(key)]
        if thresholds:
            formed = listed(list(dict.fromkeys(text for _, text in thresholds)))
            sentences.append(f"{what} of clusters refers to those of neighbouring voxels with {formed}.")
    for value in dict.fromkeys(record.get("variance_smoothing_mm") for record in records):
        if value:
            sentences.append(f"Variances were smoothed with a Gaussian of SD {value:g} mm.")
    return sentences


def tfce_settings(tfce: Mapping[str, Any]) -> str:
    """Parameters of TFCE in words."""
    if not {"H", "E", "connectivity"} <= set(tfce):
        return ""
    exact = ", exact integral" if tfce.get("exact") else ""
    return f"H = {tfce['H']:g}, E = {tfce['E']:g}, {tfce['connectivity']} neighbours{exact}"


def _alike(settings: Sequence[tuple[str, str]]) -> str:
    """Settings once if all are alike, otherwise by statistic."""
    distinct = list(dict.fromkeys((kind, text) for kind, text in settings if text))
    texts = list(dict.fromkeys(text for _, text in distinct))
    return texts[0] if len(texts) == 1 else "; ".join(f"of {kind}: {text}" for kind, text in distinct)


def _results(run: Run, options: ClusterOptions, notes: Sequence[str]) -> str:
    if not any(test.corrected for test in run.tests):
        return ""
    extent = f" of at least {options.extent} voxels" if options.extent > 1 else ""
    sentences = [
        f"Voxels with corrected p < {level_text(options.p)} were grouped into clusters{extent} "
        f"({options.connectivity} neighbours)."
    ]
    if options.subpeaks:
        sentences.append(f"Further peaks of a cluster are at least {options.distance:g} mm apart.")
    effects = {name for test in run.tests for name in test.effects}
    if "d" in effects:
        sentences.append(
            "Cohen’s d is that of the adjusted difference; its 95 % confidence interval follows from the noncentral t "
            "distribution [@cumming2001]."
        )
    if "partialr" in effects:
        sentences.append(
            "The confidence interval of the partial correlation is based on Fisher’s z transformation."
        )
    return " ".join([*sentences, *notes])


def _software(run: Run) -> str:
    software: dict[str, Any] = {}
    for record in (run.record, *run.records):
        software |= record.get("software", {})
    if "gpuvox" not in software:
        return ""
    others = [f"{name} {version}" for name, version in software.items() if name != "gpuvox"]
    seeds = list(dict.fromkeys(str(record["seed"]) for record in run.records if "seed" in record))
    devices = list(dict.fromkeys(str(record["device"]) for record in run.records if "device" in record))
    text = f"Computed with {run.maker} {software['gpuvox']}" + (f" ({', '.join(others)})" if others else "")
    text += f" on {listed(devices)}" if devices else ""
    return text + (f"; seed {listed(seeds)}." if seeds else ".")
