"""References of the methods, cited by number."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

REFERENCES = {
    "benjamini1995": "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful approach "
    "to multiple testing. J R Stat Soc B 1995;57:289–300. doi:10.1111/j.2517-6161.1995.tb02031.x",
    "bonett2000": "Bonett DG, Wright TA. Sample size requirements for estimating Pearson, Kendall and Spearman "
    "correlations. Psychometrika 2000;65:23–28. doi:10.1007/BF02294183",
    "brown1974": "Brown MB, Forsythe AB. Robust tests for the equality of variances. J Am Stat Assoc 1974;69:364–367. "
    "doi:10.1080/01621459.1974.10482955",
    "cohen1988": "Cohen J. Statistical Power Analysis for the Behavioral Sciences. 2nd ed. Lawrence Erlbaum, 1988.",
    "cumming2001": "Cumming G, Finch S. A primer on the understanding, use, and calculation of confidence intervals "
    "that are based on central and noncentral distributions. Educ Psychol Meas 2001;61:532–574. "
    "doi:10.1177/0013164401614002",
    "diggle2002": "Diggle PJ, Heagerty P, Liang KY, Zeger SL. Analysis of Longitudinal Data. 2nd ed. Oxford "
    "University Press, 2002.",
    "efron1987": "Efron B. Better bootstrap confidence intervals. J Am Stat Assoc 1987;82:171–185. "
    "doi:10.1080/01621459.1987.10478410",
    "freedman1983": "Freedman D, Lane D. A nonstochastic interpretation of reported significance levels. J Bus Econ "
    "Stat 1983;1:292–298. doi:10.1080/07350015.1983.10509354",
    "lilliefors1967": "Lilliefors HW. On the Kolmogorov–Smirnov test for normality with mean and variance unknown. J "
    "Am Stat Assoc 1967;62:399–402. doi:10.1080/01621459.1967.10482916",
    "mackinnon1985": "MacKinnon JG, White H. Some heteroskedasticity-consistent covariance matrix estimators with "
    "improved finite sample properties. J Econom 1985;29:305–325. doi:10.1016/0304-4076(85)90158-7",
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
    "benjamini2006": "Benjamini Y, Krieger AM, Yekutieli D. Adaptive linear step-up procedures that control the false "
    "discovery rate. Biometrika 2006;93:491–507. doi:10.1093/biomet/93.3.491",
    "winkler2016": "Winkler AM, Ridgway GR, Douaud G, Nichols TE, Smith SM. Faster permutation inference in brain "
    "imaging. NeuroImage 2016;141:502–516. doi:10.1016/j.neuroimage.2016.05.068",
}
CITED = re.compile(r" ?\[@([a-z0-9]+)\]")


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

    marked = [Markup(CITED.sub(mark, str(Markup.escape(text)))) for text in paragraphs]
    return marked, [(key, REFERENCES[key]) for key in order]


ARTICLE = re.compile(
    r"(?P<author>.+?)\. (?P<title>.+?)[.?] (?P<journal>[A-Z][^.?]*?) (?P<year>\d{4});(?P<volume>\d+):"
    r"(?P<pages>[\d–]+)\. doi:(?P<doi>\S+)"
)
BOOK = re.compile(r"(?P<author>.+?)( \(eds\))?\. (?P<title>.+)\. (?P<publisher>[^.]+), (?P<year>\d{4})\.")


def bibtex(keys: Sequence[str]) -> str:
    """Entries of BibTeX for references."""
    return "\n\n".join(_entry(key) for key in keys)


def _entry(key: str) -> str:
    article, book = ARTICLE.fullmatch(REFERENCES[key]), BOOK.fullmatch(REFERENCES[key])
    match = article or book
    assert match is not None, key
    fields = match.groupdict()
    editors = book is not None and "(eds)" in REFERENCES[key]
    people = _people(fields.pop("author").removesuffix(" (eds)"))
    fields = {"editor" if editors else "author": people, **fields}
    fields["title"] = f"{{{fields['title']}}}"
    fields = {name: value.replace("–", "--") for name, value in fields.items()}
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items()]
    return f"@{'article' if article else 'book'}{{{key},\n" + ",\n".join(lines) + "\n}"


def _people(authors: str) -> str:
    """``Lane D, Li X, et al`` → ``Lane, D. and Li, X. and others``."""
    people = []
    for author in authors.split(", "):
        name, _, initials = author.rpartition(" ")
        people.append(
            "others" if author == "et al" else f"{name}, {' '.join(f'{letter}.' for letter in initials)}"
        )
    return " and ".join(people)
