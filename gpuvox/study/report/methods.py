"""The methods section of the report of a study, written from the records of its stages."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuvox.findings.methods import statistics_sentences
from gpuvox.findings.sentences import capital, kinds, level_text, listed, number_word
from gpuvox.findings.tables import number, of_formula, read_rows
from gpuvox.study.report.contents import Contents, read_json
from gpuvox.study.report.volumes import StudyTest
from gpuvox.study.statistics.csf import REFERENCED
from gpuvox.study.statistics.transforms import FORMULAS

CORRECTED = {
    "fdr_bh": "the false discovery rate (Benjamini–Hochberg [@benjamini1995])",
    "bonferroni": "the family-wise error (Bonferroni)",
}


def record(contents: Contents, pattern: str) -> Mapping[str, Any]:
    """The first JSON file of the study whose name matches a pattern; empty if there is none."""
    return next(iter(records(contents, pattern)), {})


def records(contents: Contents, pattern: str) -> list[Mapping[str, Any]]:
    """The JSON files of the study whose names match a pattern."""
    found: list[Mapping[str, Any]] = []
    for name in fnmatch.filter(contents.texts("files"), pattern):
        path = contents.located("files", name)
        with contents.reading("files"):
            content = read_json(path)
        if isinstance(content, dict):
            found.append(content)
    return found


def beside(part: Contents) -> Mapping[str, Any]:
    """The JSON file that belongs to a table."""
    path = part.file("json")
    if path is None:
        return {}
    with part.reading("json"):
        content = read_json(path)
    if not isinstance(content, dict):
        raise part.error("json", f"names {path}, which is not a JSON object")
    return content


def paragraphs(contents: Contents, tests: Sequence[StudyTest]) -> list[str]:
    """The methods, a paragraph for each part of the study."""
    parts = [
        *contents.texts("methods"), _maps(contents, record(contents, "maps/*.json")), _voxelwise(contents, tests),
        _clusters(contents, tests), _regions(contents), _groups(contents), *_models(contents), _scores(contents),
    ]  # fmt: skip
    return [*filter(None, parts), _software(contents)]


def named(names: Sequence[str]) -> str:
    """Names of columns in a sentence."""
    return listed([name.replace("_", " ") for name in names])


def plain(condition: str) -> str:
    """A condition for readers: without the backticks around names of columns."""
    return re.sub(r"`([^`]*)`", r"\1", condition)


def _maps(contents: Contents, about: Mapping[str, Any]) -> str:
    if "FieldConversion" not in about or "Model" not in about:
        return ""
    model = about["Model"]
    named = "Stüber et al. [@stueber2014]" if model.get("name") == "stueber2014" else str(model.get("name"))
    contrasts = [name for name in model if name not in ("name", "citation", "field")]
    inverted = (
        f"quantitative susceptibility and R1, by closed-form inversion of the linear model of {named}."
        if contrasts == ["qsm", "r1"]
        else f"{listed(contrasts)}, by weighted least squares of the linear model {named} ({model.get('citation')})."
    )
    field, reference = about["FieldConversion"], about.get("Reference")
    is_stueber = model.get("name") == "stueber2014"
    what = (
        "Iron concentration (mg per kg dry weight) and myelin volume fraction" if is_stueber else "Iron and myelin"
    )
    sentences = [
        f"{what} were computed in every voxel from {inverted}",
        _field(field, model) if "r1" in contrasts else "",
        {
            "cohort": "The mean value in cerebrospinal fluid, averaged over all participants, was subtracted from "
            "all maps.",
            "subject": "Each participant’s own mean value in cerebrospinal fluid was subtracted.",
        }.get(str(reference), ""),
        f"The maps are pseudo-quantitative: {'the coefficients are those of post-mortem tissue, and ' * is_stueber}"
        "values are relative to cerebrospinal fluid."
        if reference in ("cohort", "subject")
        else "",
        "Comparisons of groups were repeated with the other reference (cohort’s mean, or participant’s own)"
        f"{of_untransformed(contents)}."
        if contents.part("csf").get("sensitivity", "")
        else "",
        "How conclusions depend on the model was examined by drawing its coefficients with normal errors."
        if contents.part("coefficients").get("table", "")
        else "",
    ]
    if any(re.search(r"maps/\w+mass\.nii", path) for path in contents.texts("files")):
        sentences.append(
            "Content is concentration multiplied by the Jacobian determinant of the template-to-subject "
            "transformation, which exceeds 1 where the participant’s structure is larger than the template’s."
        )
    if about.get("SmoothingFWHM"):
        sentences.append(f"Maps were smoothed with a Gaussian kernel of {about['SmoothingFWHM']:g}\u00a0mm FWHM.")
    return " ".join(filter(None, sentences))


def _field(field: Any, model: Mapping[str, Any]) -> str:
    if not isinstance(field, Mapping) or field.get("from") == field.get("to"):
        return f"R1 was measured at the model’s field of {model.get('field', 7):g}\u00a0T."
    how = (
        "by interpolation between the values of cerebrospinal fluid, gray matter and white matter at both fields"
        if field.get("method") == "curve"
        else f"by a power law in the ratio of the fields (exponent {field.get('exponent'):g})"
    )
    return (
        f"R1 at {field['from']:g}\u00a0T was converted to {field['to']:g}\u00a0T {how}, after Rooney et al. "
        "[@rooney2007]; susceptibility does not depend on the field."
    )


def _voxelwise(contents: Contents, tests: Sequence[StudyTest]) -> str:
    if not tests:
        return ""
    recorded, cohort = records(contents, "*_randomise.json"), contents.part("cohort")
    covariates = cohort.texts("covariates")
    nuisance = (
        f", with {named(covariates)} as nuisance variable{'' if len(covariates) == 1 else 's'}"
        if covariates
        else ""
    )
    counts = sorted({test.permutations for test in tests if test.permutations})
    how = listed([_count(count) for count in counts]) or "an unrecorded number of"
    methods = listed(list(dict.fromkeys(test.method for test in tests if test.method)))
    model, exchanged = (contents.part("voxelwise").get(key, "") for key in ("model", "exchangeability"))
    fitted = (
        f"The general linear model “{model}” was fitted in every voxel of the mask" if model
        else f"Groups were compared in every voxel of the mask by a general linear model{nuisance}"
    )  # fmt: skip
    shuffles = listed(_shuffles(recorded)) or f"permutations{_scheme(recorded)}"
    sentences = [
        f"{fitted}, and {methods or 'the statistic'} was tested by {how} {shuffles}; the corrected p-value is "
        "the proportion of permutations, including the unpermuted data, whose maximum over the mask reaches the "
        "observed value [@winkler2014].",
        f"{capital(exchanged)}." if exchanged else "",
        *_meanings(tests),
        *statistics_sentences(recorded, {test.kind for test in tests}, [methods]),
        f"Voxels were considered significant where p, corrected for the family-wise error, was below "
        f"{level_text(contents.get('level', 0.05))}; {_directions(tests)}. All {kinds(tests, 'and')} values are shown, "
        "transparent where they are not significant [@taylor2023].",
    ]
    return " ".join(filter(None, sentences))


def _shuffles(recorded: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tests were made by: permutations, flips of signs, or both."""
    methods = {test.get("method") for about in recorded for test in about.get("tests", [])}
    known = {"permutations": f"permutations{_scheme(recorded)}", "sign-flips": "flips of signs (tests of means)"}
    return [text for method, text in known.items() if method in methods]


def _meanings(tests: Sequence[StudyTest]) -> list[str]:
    """What tests ask other than whether one group is above another."""
    said = {test.contrast: test.contents.get("sentence", "").removeprefix("whether ") for test in tests}
    return [f"“{contrast}” tests whether {text.removesuffix('.')}." for contrast, text in said.items() if text]


def _count(n: int) -> str:
    return f"{n:,}".replace(",", "\u202f")


def _scheme(recorded: Sequence[Mapping[str, Any]]) -> str:
    if {about.get("nuisance") for about in recorded} != {"freedman_lane"}:
        return ""
    return " of the residuals of the nuisance model (Freedman–Lane [@freedman1983])"


def _directions(tests: Sequence[StudyTest]) -> str:
    """Whether tests are one-sided, and across what p is not corrected."""
    kinds_of_tests = {test.kind for test in tests}
    if kinds_of_tests == {"F"}:
        return "F tests have no direction, and p is not corrected across maps and tests"
    if "F" in kinds_of_tests:
        return (
            "each direction of a t test is a separate one-sided test, F tests have no direction, and p is not "
            "corrected across maps, directions and tests"
        )
    return "each direction is a separate one-sided test, and p is not corrected across maps and directions"


def _clusters(contents: Contents, tests: Sequence[StudyTest]) -> str:
    if not any(test.contents.get("clusters", "") for test in tests):
        return ""
    extent, cohort = contents.get("extent", 1), contents.part("cohort")
    text = "Significant voxels were grouped into clusters"
    text += f"; clusters of fewer than {extent} voxels were discarded." if extent > 1 else "."
    if any(test.contents.get("subjects", "") for test in tests):
        text += (
            " Each participant’s value in a cluster is the first eigenvariate as defined by SPM [@spm2007]"
            + _adjusted(cohort)
            + ". Because clusters were selected by the effect that is tested, effects within them are overestimated."
        )
    return text


def _adjusted(cohort: Contents) -> str:
    covariates, reference = cohort.texts("covariates"), cohort.get("reference", "")
    if not reference:
        return ""
    of_covariates = f" of {named(covariates)}" if covariates else ""
    return (
        f", expressed as z-score of the residuals of the reference group ({plain(reference)}), in which alone the "
        f"effects{of_covariates} were estimated"
    )


def _regions(contents: Contents) -> str:
    path = contents.file("rois")
    if path is None:
        return ""
    with contents.reading("rois"):
        rows = read_rows(path)[1]
    how, maps = contents.part("regions"), {row.get("map", "") for row in rows}
    masses = {row.get("map", "") for row in rows if row.get("mass", "n/a") != "n/a"}
    sentences = [
        _labels(how),
        f"Mean, median and SD of {named(sorted(maps)) or 'the maps'} were measured in every region and participant"
        f"{_without(how)}.",
        _volumes(how),
        *(_mass(text, how) for name, text in MASSES.items() if name in masses),
        RAW if masses & set(MASSES) and _is_normalised(how) else "",
        SHARES if any(number(row.get("qsm_share", "")) >= 0 for row in rows) else "",
        *(
            f"{named([name])} combines all structures that match {pattern}."
            for name, pattern in how.get("merge", {}).items()
        ),
    ]
    return " ".join(capital(text) for text in sentences if text)


RAW = "A mass “(raw volume)” is the same with volume that is not normalised."
SHARES = (
    "The share of a contrast (QSM, R1) due to iron is |a·Fe| / (|a·Fe| + |b·My|), where Fe and My are the region’s "
    "means and a and b their coefficients in the model of the contrast; the share of its variance is that of "
    "a²·Var(Fe) in a²·Var(Fe) + b²·Var(My), over the region’s voxels."
)
MASSES = {
    "iron": "Iron mass is mean concentration multiplied by {volume}, assuming 1 g/mL.",
    "myelin": "Myelin mass is mean fraction multiplied by {volume}.",
}


def _mass(text: str, how: Contents) -> str:
    """The sentence with the normalised volume if there is one."""
    return text.format(volume="normalised volume" if _is_normalised(how) else "volume")


def _is_normalised(how: Contents) -> bool:
    """Whether there is a head-size factor."""
    return bool(how.values) and bool(how.get("head_size", ""))


def _labels(how: Contents) -> str:
    """Which labels define the regions."""
    return {
        "participant": f"Regions are defined by each participant’s own labels ({how.get('labels', '')}).",
        "everyone": f"Regions are defined by one label image for all participants ({how.get('labels', '')}).",
    }.get(how.get("labels_of", ""), "")


def _without(how: Contents) -> str:
    """What is excluded from the statistics of a region, but not from its volume."""
    erosion, excluded = how.get("erosion", 0), []
    if erosion:
        layers = "the outermost layer" if erosion == 1 else f"the {number_word(erosion)} outermost layers"
        excluded.append(f"{layers} of its voxels")
    if how.get("lesions", ""):
        excluded.append(f"voxels in lesions ({how.get('lesions', '')})")
    return f", excluding {listed(excluded)}" if excluded else ""


def _volumes(how: Contents) -> str:
    if not how.values:
        return ""
    jacobian, head_size = how.get("jacobian", ""), how.get("head_size", "")
    counted = (
        f"the sum of the Jacobian determinants of the template-to-subject transformation ({jacobian}) over"
        if jacobian
        else "the number of voxels of"
    )
    text = f"Volume is {counted} the whole region, multiplied by the voxel volume"
    if head_size:
        text += f"; normalised volume is volume multiplied by the participant’s head-size factor ({head_size})"
    return f"{text}."


# -- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """A table of the study: its title, and the content of the JSON file beside it."""

    title: str
    about: Mapping[str, Any]

    def options(self) -> Mapping[str, Any]:
        """Options of a clinical model."""
        options = self.about.get("options")
        return options if isinstance(options, Mapping) else {}

    def transforms(self) -> list[tuple[str, str]]:
        """Formulas with the patterns of the variables that were transformed so."""
        options = self.options()
        return [(formula, str(name)) for how, formula in FORMULAS.items() for name in options.get(how) or ()]


def _sentences(tables: Sequence[Recorded], phrase: Callable[[Recorded], str]) -> str:
    """A sentence about each table: once if it is the same for all, otherwise with the titles of the tables.

    `phrase` returns it without the full stop; an empty text for a table that needs no sentence.
    """
    titles_of: dict[str, list[str]] = {}
    for table in tables:
        titles_of.setdefault(phrase(table), []).append(f"“{table.title}”")
    if len(titles_of) == 1:
        return "".join(f" {capital(text)}." for text in titles_of if text)
    return "".join(f" In {listed(titles)}, {text}." for text, titles in titles_of.items() if text)


def _groups(contents: Contents) -> str:
    groups = contents.parts("groups")
    sentences = []
    sentences += _demographics([beside(part) for part in groups if part.get("demographics", "")])
    tables = [Recorded(part.need("title", str), beside(part)) for part in groups if part.get("table", "")]
    described = [table for table in tables if "description" in table.about]
    if described:
        sentences.append("Variables of one group were described." + _sentences(described, _one_sample))
    tables = [table for table in tables if "description" not in table.about]
    if tables:
        with_covariates = [bool(_ancova(table).get("covariates")) for table in tables]
        where = "" if all(with_covariates) else ", where there were covariates,"
        slopes = (
            f", and{where} homogeneity of regression slopes by the group × covariate interactions"
            if any(with_covariates)
            else ""
        )
        sentences.append(
            "Variables were compared by analysis of covariance; Cohen’s d is 2√F/√df with the sign of the difference."
            + (
                " Of pairs among three groups or more, d is the difference divided by the SD of the residuals."
                if any(table.about.get("pairs") for table in tables)
                else ""
            )
            + "".join(
                _sentences(tables, phrase)
                for phrase in (_covariates, _group_correction, _pairs, _transforms, _group_subset)
            )
            + " Equality of variances was checked by Levene’s test with medians [@brown1974], normality of residuals "
            f"by Lilliefors’ test [@lilliefors1967]{slopes}."
        )
    return " ".join(sentences)


def _demographics(records_of_tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """How groups were compared; those of one group alone are described."""
    compared = [about for about in records_of_tables if len(about.get("order") or ()) != 1]
    if not compared:
        return []
    comparisons = any((about.get("demographics") or {}).get("comparisons") for about in compared)
    more = comparisons or any(len(about.get("order") or ()) > 2 for about in compared)
    of_more = "analysis of variance (Fisher’s or Welch’s), the Kruskal–Wallis test, " if more else ""
    return [
        f"Demographic variables were compared by Student’s or Welch’s t test, the Mann–Whitney test, {of_more}Fisher’s "
        "exact test or Pearson’s χ² test, as given in the table."
    ]


def _one_sample(table: Recorded) -> str:
    about = table.about["description"]
    if about.get("against") is None:
        return ""
    corrected = _correction(about.get("correction"), "over the variables of the table, p")
    return f"means were compared with {about['against']:g} by Student’s t test of one sample, and {corrected}"


def _ancova(table: Recorded) -> Mapping[str, Any]:
    content = table.about.get("ancova")
    return content if isinstance(content, Mapping) else {}


def _covariates(table: Recorded) -> str:
    covariates = _ancova(table).get("covariates")
    if covariates is None:
        return ""
    return _named_covariates(covariates) if covariates else "there was no covariate"


def _named_covariates(covariates: Sequence[str]) -> str:
    return f"the covariate{' was' if len(covariates) == 1 else 's were'} {named(covariates)}"


def _group_correction(table: Recorded) -> str:
    return _correction(_ancova(table).get("correction"), "within each family, p")


def _pairs(table: Recorded) -> str:
    """How p of the pairs of three groups or more was adjusted for their number."""
    method = (table.about.get("pairs") or {}).get("method")
    if method == "none":
        return "for pairs of groups, p was not adjusted for their number"
    return f"for pairs of groups, p was adjusted for their number {POSTHOC[method]}" if method in POSTHOC else ""


POSTHOC = {
    "tukey": "by the method of Tukey and Kramer",
    "bonferroni": "by Bonferroni’s method",
    "holm": "by Holm’s method",
    "sidak": "by Šidák’s method",
}


def of_untransformed(contents: Contents) -> str:
    """What comparisons of iron and myelin under other assumptions are of, if tables of groups analyse logarithms."""
    tables = [Recorded("", beside(part)) for part in contents.parts("groups")]
    names = sorted(
        {
            str(name)
            for table in tables
            for name in _ancova(table).get("transforms", {})
            if REFERENCED.fullmatch(name)
        }
    )
    return f", without the logarithm of {listed(names)}" if names else ""


def _transforms(table: Recorded) -> str:
    about = _ancova(table)
    formulas = [
        of_formula(str(how), str(name).replace("_", " ")) for name, how in about.get("transforms", {}).items()
    ]
    chosen = (
        ", chosen because of the skewness of the residuals unless specified beforehand"
        if "auto" in about.get("log", [])
        else ""
    )
    return f"logarithms were analysed: {listed(formulas)}{chosen}" if formulas else ""


def _group_subset(table: Recorded) -> str:
    return _subset(table.about.get("subset"))


def _model_subset(table: Recorded) -> str:
    return _subset(table.options().get("subset"))


def _subset(condition: Any) -> str:
    return f"only participants with {plain(str(condition))} were analysed" if condition else ""


def _correction(method: Any, where: str) -> str:
    if str(method) == "none":
        return "p was not corrected for the number of tests"
    return f"{where} was corrected for {CORRECTED[str(method)]}" if str(method) in CORRECTED else ""


def _models(contents: Contents) -> list[str]:
    paragraph_of_kind = (("regression", _regression), ("correlation", _correlation), ("samplesize", _sample_size),
                         ("mixed", _mixed))  # fmt: skip
    parts = contents.parts("models")
    paragraphs_of_models = []
    for kind, paragraph in paragraph_of_kind:
        tables = [Recorded(p.need("title", str), beside(p)) for p in parts if p.get("kind", "") == kind]
        # A note in place of a record: there was nothing to model.
        tables = [table for table in tables if "note" not in table.about]
        if tables:
            paragraphs_of_models.append(paragraph(tables))
    return paragraphs_of_models


def _regression(tables: Sequence[Recorded]) -> str:
    text = (
        "Clinical outcomes were modelled by hierarchical regression, with blocks of predictors entered one "
        "after the other."
    )
    if any(table.options().get("model") == "logistic" for table in tables):
        text += (
            " Outcomes with two values were modelled by logistic regression; blocks are tested by likelihood ratio, "
            "coefficients by Wald’s z."
        )
    if any(table.options().get("model", "linear") == "linear" for table in tables):
        text += (
            " Residuals of linear models were checked for constant variance (Breusch–Pagan, studentised) and normality "
            "(Lilliefors), and participants for influence (Cook’s distance)."
        )
    phrases = (_adjustments, _logarithms, _robust, _bootstrap, _regression_correction, _model_subset)
    return text + "".join(_sentences(tables, each) for each in phrases)


def _adjustments(table: Recorded) -> str:
    """Which predictors are z-scores, and of which group."""
    adjustment = table.about.get("adjustment")
    if not isinstance(adjustment, Mapping):
        return ""
    places, covariates = adjustment.get("group_by_predictor") or {}, named(adjustment.get("covariates") or [])
    phrases = []
    for place in dict.fromkeys(places.values()):
        names = named([name for name, where in places.items() if where == place])
        residuals = f" of the residuals given {covariates}" if covariates else ""
        phrases.append(f"{names} entered as z-scores{residuals} in {plain(place)}")
    return "; ".join(phrases)


def _logarithms(table: Recorded) -> str:
    said = {"log": "the natural logarithm of {} was taken", "sqrt": "the square root of {} was taken",
            "rank": "{} was replaced by its rank"}  # fmt: skip
    options = table.options()
    return "; ".join(text.format(named(options[how])) for how, text in said.items() if options.get(how))


def _robust(table: Recorded) -> str:
    if table.options().get("errors") != "hc3":
        return ""
    return "standard errors are robust to unequal variances (HC3 [@mackinnon1985]), and F tests are Wald tests"


def _regression_correction(table: Recorded) -> str:
    return _correction(_method(table), "across the models, p of the last block")


def _correlation_correction(table: Recorded) -> str:
    return _correction(_method(table), "across all correlations, p")


def _method(table: Recorded) -> Any:
    return (table.about.get("correction") or {}).get("method")


def _correlation(tables: Sequence[Recorded]) -> str:
    spearman = any("spearman" in str(table.about.get("analysis")) for table in tables)
    text = "Confidence intervals of correlations use Fisher’s z transformation"
    text += (
        ", for rank correlations with the standard error of Bonett and Wright [@bonett2000]." if spearman else "."
    )
    phrases = (_kind_of_correlation, _adjustments, _logarithms, _bootstrap, _correlation_correction, _model_subset)
    return text + "".join(_sentences(tables, each) for each in phrases)


def _kind_of_correlation(table: Recorded) -> str:
    method, covariates = str(table.options().get("method", "")), table.options().get("given") or []
    if not method:
        return ""
    name = CORRELATIONS.get(method, method)
    how = f"partial {name} correlations given {named(covariates)}" if covariates else f"simple {name} correlations"
    return f"{how} were computed"


CORRELATIONS = {"pearson": "Pearson", "spearman": "Spearman rank"}


def _sample_size(tables: Sequence[Recorded]) -> str:
    text = "Sample sizes were computed from the noncentral t distribution [@cohen1988]."
    phrases = (_size, _size_covariates, _size_share)
    return text + "".join(_sentences(tables, each) for each in phrases)


def _mixed(tables: Sequence[Recorded]) -> str:
    text = (
        "Change per year was estimated from all visits by linear mixed models (restricted maximum likelihood, Wald’s "
        "z); percentages refer to the estimate at time 0."
    )
    if any(table.options().get("log") for table in tables):
        text += " Those of logarithms are of the value itself, from one year to the next."
    phrases = (_random, _size_covariates_of_change, _logarithms, _outcome_correction, _trial, _model_subset)
    return text + "".join(_sentences(tables, each) for each in phrases)


def _random(table: Recorded) -> str:
    slope = table.options().get("random", "slope") == "slope"
    return f"participants had random intercepts{' and slopes' if slope else ''}"


def _size_covariates_of_change(table: Recorded) -> str:
    covariates = table.options().get("covariates")
    return _named_covariates(covariates) if covariates else ""


def _outcome_correction(table: Recorded) -> str:
    return _correction(_method(table), "across the outcomes, p")


def _trial(table: Recorded) -> str:
    options = table.options()
    if not options.get("visits"):
        return ""
    years = listed([f"{year:g}" for year in options["visits"]])
    share = options.get("reduction", 1)
    change = "difference of the changes" if len(options.get("order") or ()) == 2 else "change"
    effect = f"the whole {change}" if share == 1 else f"{share:g} of the {change}"
    return (
        f"numbers of participants of a trial with visits at {years} years, which removes {effect} (power "
        f"{options.get('power', 0.8):g}, two-sided {options.get('alpha', 0.05):g}), follow from the estimated "
        "variances [@diggle2002]"
    )


def _size(table: Recorded) -> str:
    analysis = table.about.get("analysis")
    return f"they are {analysis}" if analysis else ""


def _size_covariates(table: Recorded) -> str:
    covariates = table.options().get("covariates")
    if not covariates:
        return ""
    return f"those for an analysis of covariance use differences and variances adjusted for {named(covariates)}"


def _size_share(table: Recorded) -> str:
    share = table.options().get("reduction", 1)
    return f"the effect is {share:g} of the observed difference" if share != 1 else ""


def _bootstrap(table: Recorded) -> str:
    bootstrap = table.about.get("bootstrap")
    if not isinstance(bootstrap, Mapping):
        return ""
    strata, without = bootstrap.get("within") or [], bootstrap.get("without_interval") or []
    text = (
        "bootstrap intervals (percentile, and bias-corrected and accelerated, BCa [@efron1987]) are based on "
        f"{_count(bootstrap['resamples'])} resamples of participants"
    )
    text += f" within categories of {named(strata)}" if strata else ""
    if without:
        share = 100 * float(bootstrap.get("minimum_share_determined", 0.9))
        text += f"; fewer than {share:.0f} % of them determine {named(without)}, reported without interval"
    return text


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
