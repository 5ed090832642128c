"""Names of maps in words, as of BIDS derivatives.

``contrast-MSMinusHC_stat-logp_desc-tfceFWE_statmap``: the test, what the values are, and how they were corrected.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

KINDS = {
    "vox": "vox", "tfce": "tfce", "clustere": "clusterSize", "clusterm": "clusterMass",
    "clustern": "clusterNormalised", "tfcen": "tfceNormalised",
}  # fmt: skip
"""What FSL's names of statistics are called here."""
TITLES = {
    "vox": "voxelwise", "tfce": "TFCE", "clusterSize": "cluster size", "clusterMass": "cluster mass",
    "clusterNormalised": "normalised cluster size", "tfceNormalised": "normalised TFCE",
}  # fmt: skip
OF_VOXELS = {"voxUnc": "voxFDR", "tfceUnc": "tfceFDR"}
"""Uncorrected p-values that are of voxels, and what they are called with a false discovery rate."""
OF_MISSING = ("z", "n", "dof")
"""Maps where degrees of freedom differ between voxels: what was tested, subjects with data, degrees of freedom; see
`results.TestResult`."""
CORRECTIONS = {"corrp": "FWE", "acrossp": "FWEacross", "p": "Unc", "": ""}
"""How the names of statistics end when they stand for p-values, by what FSL's names have after the statistic."""
SIGNS = {"-": " minus ", "+": " plus ", "*": " times ", "/": " over ", ":": " by ", ">": " above ", "<": " below "}
LONGEST = 60
"""Letters of a label, so that names of files stay far below 255 bytes."""
MAP = re.compile(
    r"(map-[A-Za-z0-9]+_)?contrast-[A-Za-z0-9]+_stat-[A-Za-z0-9]+(_desc-[A-Za-z0-9]+)?_statmap\.(json|nii|hdr|img)(\.gz)?"
)
"""Files that a voxelwise analysis writes for its tests."""


def contrast_labels(names: Sequence[str]) -> list[str]:
    """A label of letters and digits for each test, all different: ``MS - HC`` → ``MSMinusHC``."""
    labels: list[str] = []
    for number, name in enumerate(names, start=1):
        label = _label(name) or f"test{number}"
        if label.casefold() in (other.casefold() for other in labels):
            label += str(number)
        labels.append(label)
    return labels


def _label(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[-+*/:<>]", lambda sign: SIGNS[sign[0]], plain)
    first, *rest = re.findall(r"[A-Za-z0-9]+", plain) or [""]
    return (first + "".join(word[0].upper() + word[1:] for word in rest))[:LONGEST]


def map_entities(map_name: str, test: str) -> tuple[str, str] | None:
    """What ``stat-`` and ``desc-`` are of a map that randomise calls by a name without root and extension.

    Parameters
    ----------
    map_name : str
        ``tstat1``, ``tfce_corrp_tstat1``, ``vox_p_fstat2``, ``clustere_tstat1``.
    test : str
        ``tstat1``, ``fstat2``.

    Returns
    -------
    (str, str) or None
        None for maps that keep their names, such as those of ``--glm_output``.
    """
    if map_name == test:
        return ("F" if test.startswith("f") else "t"), ""
    if map_name in (f"{kind}_{test}" for kind in OF_MISSING):
        return map_name.partition("_")[0], ""
    kind, _, rest = map_name.removesuffix(f"_{test}").partition("_")
    if not map_name.endswith(f"_{test}") or kind not in KINDS or rest not in CORRECTIONS:
        return None
    return ("logp", KINDS[kind] + CORRECTIONS[rest]) if rest else (KINDS[kind], "")


def map_name(label: str, stat: str, desc: str, images: str = "") -> str:
    """The name of a map, without extension; it begins with the name of the images where there are several sets."""
    return f"{f'map-{images}_' if images else ''}contrast-{label}_stat-{stat}{f'_desc-{desc}' if desc else ''}_statmap"


def title(desc: str) -> str:
    """A correction in words: ``tfceFWE`` → ``TFCE``."""
    return TITLES[re.sub("(FWE|FWEacross|FDR|Unc)$", "", desc)]
