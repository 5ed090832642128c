"""What was done, in the words of a methods section, from what the stages recorded; with the literature it cites."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from gpuvox.study.report.contents import Contents
from gpuvox.study.report.findings import level_text, listed
from gpuvox.study.report.volumes import VoxelwiseTest

REFERENCES = {
    "benjamini1995": "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful approach "
    "to multiple testing. J R Stat Soc B 1995;57:289–300. doi:10.1111/j.2517-6161.1995.tb02031.x",
    "bonett2000": "Bonett DG, Wright TA. Sample size requirements for estimating Pearson, Kendall and Spearman "
    "correlations. Psychometrika 2000;65:23–28. doi:10.1007/BF02294183",
    "brown1974": "Brown MB, Forsythe AB. Robust tests for the equality of variances. J Am Stat Assoc 1974;69:364–367. "
    "doi:10.1080/01621459.1974.10482955",
    "cohen1988": "Cohen J. Statistical Power Analysis for the Behavioral Sciences. 2nd ed. Lawrence Erlbaum, 1988.",
    "efron1987": "Efron B. Better bootstrap confidence intervals. J Am Stat Assoc 1987;82:171–185. "
    "doi:10.1080/01621459.1987.10478410",
    "freedman1983": "Freedman D, Lane D. A nonstochastic interpretation of reported significance levels. J Bus Econ "
    "Stat 1983;1:292–298. doi:10.1080/07350015.1983.10509354",
    "lilliefors1967": "Lilliefors HW. On the Kolmogorov–Smirnov test for normality with mean and variance unknown. J "
    "Am Stat Assoc 1967;62:399–402. doi:10.1080/01621459.1967.10482916",
    "rooney2007": "Rooney WD, Johnson G, Li X, et al. Magnetic field and tissue dependencies of human brain "
    "longitudinal ¹H₂O relaxation in vivo. Magn Reson Med 2007;57:308–318. doi:10.1002/mrm.21122",
    "smith2009": "Smith SM, Nichols TE. Threshold-free cluster enhancement: addressing problems of smoothing, "
    "threshold dependence and localisation in cluster inference. NeuroImage 2009;44:83–98. "
    "doi:10.1016/j.neuroimage.2008.03.061",
    "spm2007": "Friston KJ, Ashburner JT, Kiebel SJ, Nichols TE, Penny WD (eds). Statistical Parametric Mapping: The "
    "Analysis of Functional Brain Images. Academic Press, 2007.",
    "stueber2014": "Stüber C, Morawski M, Schäfer A, et al. Myelin and iron concentration in the human brain: a "
    "quantitative study of MRI contrast. NeuroImage 2014;93:95–106. doi:10.1016/j.neuroimage.2014.02.026",
    "taylor2023": "Taylor PA, Reynolds RC, Calhoun V, et al. Highlight results, don’t hide them: enhance "
    "interpretation, reduce biases and improve reproducibility. NeuroImage 2023;274:120138. "
    "doi:10.1016/j.neuroimage.2023.120138",
    "winkler2014": "Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE. Permutation inference for the general "
    "linear model. NeuroImage 2014;92:381–397. doi:10.1016/j.neuroimage.2014.01.060",
}
CITED = re.compile(r" ?\[@([a-z0-9]+)\]")
CORRECTED = {
    "fdr_bh": "the false discovery rate (Benjamini–Hochberg [@benjamini1995])",
    "bonferroni": "the family-wise error (Bonferroni)",
}


def cited(paragraphs: Sequence[str]) -> tuple[list[Markup], list[tuple[str, str]]]:
    """Paragraphs with numbered citations, and the references in the order of their numbers.

    Parameters
    ----------
    paragraphs : sequence of str
        ``[@key]`` cites; anything else is text.
    """
    order: list[str] = []

    def mark(match: re.Match[str]) -> str:
        if match[1] not in REFERENCES:
            return match[0]
        if match[1] not in order:
            order.append(match[1])
        return f'<a class="cite" href="#ref-{match[1]}">{order.index(match[1]) + 1}</a>'

    found = [Markup(CITED.sub(mark, str(Markup.escape(text)))) for text in paragraphs]
    return found, [(key, REFERENCES[key]) for key in order]


def record(contents: Contents, pattern: str) -> Mapping[str, Any]:
    """The first JSON file of the study's files whose name fits a pattern; empty if there is none."""
    for name in fnmatch.filter(contents.texts("files"), pattern):
        path = contents.located("files", name)
        with contents.reading("files"):
            found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def beside(part: Contents) -> Mapping[str, Any]:
    """The JSON file that belongs to a table."""
    path = part.file("json")
    if path is None:
        return {}
    with part.reading("json"):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise part.error("json", f"names {path}, which is not a JSON object")
    return found


def paragraphs(contents: Contents, tests: Sequence[VoxelwiseTest]) -> list[str]:
    """The methods, a paragraph for each part of the study."""
    parts = [
        *contents.texts("methods"), _maps(contents, record(contents, "maps/*.json")), _voxelwise(contents, tests),
        _clusters(contents, tests), _regions(contents), _groups(contents), *_models(contents), _scores(contents),
    ]  # fmt: skip
    return [*filter(None, parts), _software(contents)]


def named(names: Sequence[str]) -> str:
    """Names of columns in a sentence."""
    return listed([name.replace("_", " ") for name in names])


def _maps(contents: Contents, about: Mapping[str, Any]) -> str:
    if "FieldConversion" not in about or "Model" not in about:
        return ""
    model = about["Model"]
    named = "Stüber et al. [@stueber2014]" if model.get("name") == "stueber2014" else str(model.get("name"))
    field, reference = about["FieldConversion"], about.get("Reference")
    sentences = [
        "Iron concentration (mg per kg dry weight) and myelin volume fraction were computed in every voxel from "
        f"quantitative susceptibility and R1, by closed-form inversion of the linear model of {named}.",
        _field(field, model),
        {
            "cohort": "The mean over all participants of their mean in cerebrospinal fluid was subtracted once from "
            "everyone.",
            "subject": "Each participant’s own mean in cerebrospinal fluid was subtracted.",
        }.get(str(reference), ""),
    ]
    if any(re.search(r"maps/\w+mass\.nii", path) for path in contents.texts("files")):
        sentences.append(
            "Content is concentration times the Jacobian determinant of the template-to-subject transformation, above "
            "1 where the participant’s structure is larger than the template’s."
        )
    if about.get("SmoothingFWHM"):
        sentences.append(f"Maps were smoothed with a Gaussian kernel of {about['SmoothingFWHM']:g}\u00a0mm FWHM.")
    return " ".join(filter(None, sentences))


def _field(field: Any, model: Mapping[str, Any]) -> str:
    if not isinstance(field, Mapping) or field.get("from") == field.get("to"):
        return f"R1 was measured at the model’s field of {model.get('field', 7):g}\u00a0T."
    how = (
        "by interpolation between cerebrospinal fluid, gray and white matter at both fields"
        if field.get("method") == "curve"
        else f"by a power of the ratio of the fields (exponent {field.get('exponent'):g})"
    )
    return (
        f"R1 at {field['from']:g}\u00a0T was converted to {field['to']:g}\u00a0T {how}, after Rooney et al. "
        "[@rooney2007]; susceptibility does not depend on the field."
    )


def _voxelwise(contents: Contents, tests: Sequence[VoxelwiseTest]) -> str:
    if not tests:
        return ""
    about, cohort = record(contents, "*_randomise.json"), contents.part("cohort")
    covariates = cohort.texts("covariates")
    given = f", with {named(covariates)} as nuisance" if covariates else ""
    counts = sorted({test.permutations for test in tests if test.permutations})
    how = listed([_count(count) for count in counts]) or "an unrecorded number of"
    methods = listed(list(dict.fromkeys(test.method for test in tests if test.method)))
    sentences = [
        f"Groups were compared in every voxel of the mask by a general linear model{given}, and "
        f"{methods or 'the statistic'} was tested by {how} permutations{_scheme(about)}; corrected p is the share of "
        "permutations, the observed one included, whose largest value in the mask is at least that observed "
        "[@winkler2014].",
        _tfce(about) if "TFCE" in methods else "",
        f"Voxels count as significant where the family-wise error corrected p is below "
        f"{level_text(contents.get('level', 0.05))}; each direction is a test of its own, one-sided, and p is not "
        "corrected over maps and directions. All t values are shown, faded where they are not significant "
        "[@taylor2023].",
    ]
    return " ".join(filter(None, sentences))


def _count(n: int) -> str:
    return f"{n:,}".replace(",", "\u202f")


def _scheme(about: Mapping[str, Any]) -> str:
    if about.get("nuisance") != "freedman_lane":
        return ""
    return " of the residuals of the nuisance model (Freedman–Lane [@freedman1983])"


def _tfce(about: Mapping[str, Any]) -> str:
    tfce = (about.get("statistics") or {}).get("t", {}).get("tfce") or {}
    settings = (
        f" (H = {tfce['H']:g}, E = {tfce['E']:g}, {tfce['connectivity']} neighbours)"
        if {"H", "E", "connectivity"} <= set(tfce)
        else ""
    )
    smoothing = about.get("variance_smoothing_mm")
    text = f"TFCE is threshold-free cluster enhancement [@smith2009]{settings}."
    return text + (f" Variances were smoothed with a Gaussian of SD {smoothing:g} mm." if smoothing else "")


def _clusters(contents: Contents, tests: Sequence[VoxelwiseTest]) -> str:
    if not any(test.contents.get("clusters", "") for test in tests):
        return ""
    extent, cohort = contents.get("extent", 1), contents.part("cohort")
    text = "Significant voxels were joined to clusters"
    text += f"; clusters of fewer than {extent} voxels were dropped." if extent > 1 else "."
    if any(test.contents.get("subjects", "") for test in tests):
        text += (
            " Each participant’s value in a cluster is the first eigenvariate as SPM defines it [@spm2007]"
            + _adjusted(cohort)
            + ". Clusters were chosen by the difference of the groups, so that group means within them are biased."
        )
    return text


def _adjusted(cohort: Contents) -> str:
    covariates, reference = cohort.texts("covariates"), cohort.get("reference", "")
    if not reference:
        return ""
    given = f" of {named(covariates)}" if covariates else ""
    return (
        f", as z of the residuals of the reference group ({reference}), in which alone the effects{given} were "
        "estimated"
    )


def _regions(contents: Contents) -> str:
    if not contents.get("rois", ""):
        return ""
    return (
        "Volume, mean, median and SD of the maps were measured in every region and participant. Iron mass is mean "
        "concentration times volume at 1 g/mL, myelin mass mean fraction times volume."
    )


def _groups(contents: Contents) -> str:
    groups = contents.parts("groups")
    records = [beside(part) for part in groups]
    analyses = [about["ancova"] for about in records if isinstance(about.get("ancova"), Mapping)]
    sentences = []
    if any(part.get("demographics", "") for part in groups):
        sentences.append(
            "Demographic variables were compared by Student’s or Welch’s t test, the Mann–Whitney test, Fisher’s exact "
            "test or Pearson’s χ², as the table says."
        )
    if any(part.get("table", "") for part in groups):
        given = dict.fromkeys(name for each in analyses for name in each.get("covariates", []))
        for_covariates = f", with {named(list(given))} as covariates" if given else ""
        sentences.append(
            f"Regional values were compared by analysis of covariance{for_covariates}; Cohen’s d is 2√F/√df with the "
            "sign of the difference." + _correction(each.get("correction") for each in analyses)
        )
        logarithms = {name for each in analyses for name in each.get("transforms", {})}
        if logarithms:
            sentences.append(f"Of {named(sorted(logarithms))} the logarithm was analysed.")
        slopes = ", and homogeneity of slopes by the interactions" if given else ""
        sentences.append(
            "Equality of variances was checked by Levene’s test with medians [@brown1974], normality of residuals by "
            f"Lilliefors’ test [@lilliefors1967]{slopes}."
        )
    return " ".join(sentences)


def _correction(methods: Iterator[Any]) -> str:
    known = [CORRECTED[str(name)] for name in dict.fromkeys(methods) if str(name) in CORRECTED]
    return f" Within each family, p was corrected for {listed(known)}." if known else ""


def _models(contents: Contents) -> list[str]:
    parts = contents.parts("models")
    of_kind = {
        kind: [beside(part) for part in parts if part.get("kind", "") == kind]
        for kind in ("regression", "correlation", "samplesize")
    }
    telling = (("regression", _regression), ("correlation", _correlation), ("samplesize", _sample_size))
    return [tell(of_kind[kind]) for kind, tell in telling if of_kind[kind]]


def _regression(records: Sequence[Mapping[str, Any]]) -> str:
    text = "Clinical outcomes were modelled by hierarchical linear regression, one block of predictors after the other."
    told = dict.fromkeys(sentence for about in records for sentence in _adjustments(about))
    return text + "".join(told) + _logarithms(records) + _bootstrap(records) + _corrections(records)


def _adjustments(about: Mapping[str, Any]) -> Iterator[str]:
    """Which predictors are z-scores, of whom."""
    adjustment = about.get("adjustment")
    if not isinstance(adjustment, Mapping):
        return
    places = adjustment.get("group_by_predictor") or {}
    for place in dict.fromkeys(places.values()):
        names = named([name for name, where in places.items() if where == place])
        given = named(adjustment.get("covariates") or [])
        yield f" {_capital(names)} entered as z{f' of the residuals given {given}' if given else ''} in {place}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _logarithms(records: Sequence[Mapping[str, Any]]) -> str:
    names = {name for about in records for name in (about.get("options") or {}).get("log") or []}
    return f" Of {named(sorted(names))} the natural logarithm was taken." if names else ""


def _correlation(records: Sequence[Mapping[str, Any]]) -> str:
    spearman = any("spearman" in str(about.get("analysis")) for about in records)
    kinds = {
        (str((o := about.get("options") or {}).get("method", "")), tuple(o.get("given") or ()))
        for about in records
    }
    told = [
        f"{'Partial' if given else 'Simple'} {CORRELATIONS.get(method, method)} correlations were computed"
        + (f", given {named(given)}" if given else "")
        for method, given in sorted(kinds)
    ]
    text = ". ".join(told) + ("; " if told else "") + "confidence intervals are by Fisher’s z"
    text += ", those of ranks with the standard error of Bonett and Wright [@bonett2000]." if spearman else "."
    return text + _logarithms(records) + _bootstrap(records) + _corrections(records)


CORRELATIONS = {"pearson": "Pearson", "spearman": "Spearman rank"}


def _sample_size(records: Sequence[Mapping[str, Any]]) -> str:
    what = listed(list(dict.fromkeys(str(about["analysis"]) for about in records if about.get("analysis"))))
    text = f"Sample sizes are from the noncentral t distribution [@cohen1988]{f': {what}' if what else ''}."
    options = [about.get("options") or {} for about in records]
    given = dict.fromkeys(name for each in options for name in each.get("covariates") or [])
    if given:
        text += (
            f" Those of an analysis of covariance take the differences and variances given {named(list(given))}."
        )
    shares = {each.get("reduction", 1) for each in options} - {1}
    return text + "".join(f" The effect is {share:g} of the observed difference." for share in sorted(shares))


def _bootstrap(records: Sequence[Mapping[str, Any]]) -> str:
    counts = {about["bootstrap"]["resamples"] for about in records if isinstance(about.get("bootstrap"), Mapping)}
    if not counts:
        return ""
    number = listed([_count(count) for count in sorted(counts)])
    return (
        f" Bootstrap intervals, percentile and bias-corrected and accelerated (BCa [@efron1987]), are from {number} "
        "resamples of participants."
    )


def _corrections(records: Sequence[Mapping[str, Any]]) -> str:
    return _correction((about.get("correction") or {}).get("method") for about in records)


def _scores(contents: Contents) -> str:
    if not contents.part("zscores").get("table", ""):
        return ""
    return f"Regional values are shown{_adjusted(contents.part('cohort')) or ' as z-scores'}."


def _software(contents: Contents) -> str:
    versions = contents.get("versions", {})
    named = [f"{name} {version}" for name, version in versions.items()]
    text = f"Computed with gpuvox {contents.get('gpuvox', 'of unknown version')}"
    text += f" ({', '.join(named)})" if named else ""
    text += f" on {contents.get('device', '')}" if contents.get("device", "") else ""
    seed = contents.values.get("seed")
    return text + (f"; seed\u00a0{contents.need('seed', int)}." if seed is not None else ".")
