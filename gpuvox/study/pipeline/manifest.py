"""The record of a study for its report: ``study.json``, and a summary of the findings."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox import __version__, files, private
from gpuvox.info import versions
from gpuvox.study.ledger import Ledger
from gpuvox.study.pipeline.config import Rois, order_of, slug
from gpuvox.study.pipeline.inputs import Comparison, StudyInputs
from gpuvox.study.statistics import csf

MODELS = ("regression", "correlation", "sample_size", "mixed")


def describe(inputs: StudyInputs, ledger: Ledger) -> dict[str, Any]:
    """Everything that the report needs; paths are relative to the results folder."""
    config = inputs.config
    template, folder = config.template, config.out
    manifest: dict[str, Any] = {
        "title": config.study.title,
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "gpuvox": __version__,
        "command": " ".join(private.words(inputs.line, os.fspath(folder))),
        "versions": versions() | {"statsmodels": importlib.metadata.version("statsmodels")},
        "device": _device(inputs),
        "seed": config.study.seed,
        "config": {"path": config.path.name, "text": config.text},
        "cohort": _cohort(inputs),
        "checks": _checks(inputs, ledger),
        "tests": [_test(inputs, comparison) for comparison in inputs.comparisons],
        "groups": _groups(inputs),
        "csf": _csf(inputs),
        "coefficients": _coefficients(inputs, ledger),
        "models": _models(inputs),
        "stages": [{"name": name, "seconds": done["seconds"]} for name, done in ledger.stages.items()],
        "files": sorted(path for done in ledger.stages.values() for path in done["outputs"]),
    }
    if config.voxelwise is not None:
        tested = inputs.hypotheses
        columns = list(tested.design.names)
        manifest["design"] = {"matrix": "design.mat", "contrasts": "design.con", "columns": columns}
        manifest["voxelwise"] = {"model": tested.formula, "exchangeability": tested.exchangeability}
    if template is not None:
        named = {"mask": template.mask, "labels": template.labels}
        manifest |= {key: _image(config.file(name), folder) for key, name in named.items() if name}
        if inputs.has_underlay:
            manifest["underlay"] = _image(inputs.path("underlay"), folder)
        if template.names:
            manifest["names"] = os.path.relpath(config.file(template.names), folder)
    if config.clusters is not None:
        manifest |= {"level": config.clusters.p, "extent": config.clusters.extent}
    if config.ironmyelin is not None:
        manifest["units"] = inputs.units
    if config.rois is not None:
        manifest |= {"rois": "rois.tsv", "regions": _regions(inputs, config.rois)}
    if config.report.zscores:
        manifest["zscores"] = {"table": "zscores.tsv", "title": f"z-scores given {inputs.reference}"}
    return manifest


def _device(inputs: StudyInputs) -> str:
    """The device on which the permutations were computed."""
    records = [inputs.path(f"{comparison.root}_randomise.json") for comparison in inputs.comparisons]
    names = [json.loads(Path(path).read_text(encoding="utf-8"))["device"] for path in dict.fromkeys(records)]
    return ", ".join(dict.fromkeys("CPU" if name == "cpu" else str(name) for name in names))


def _image(name: str, folder: Path) -> str:
    return os.path.relpath(files.find_image(name), folder)


def _regions(inputs: StudyInputs, settings: Rois) -> dict[str, Any]:
    """How regions were measured; images are named by their column or file."""
    template, columns = inputs.config.template, inputs.cohort.columns
    labels = settings.labels or (template.labels if template else "")
    path = inputs.config.file(labels)
    one_each = labels in columns or files.read_header(path).shape[3] > 1
    images = {"labels": labels, "jacobian": settings.jacobian, "lesions": settings.lesions}
    return {
        **{kind: name if name in columns else os.path.basename(name) for kind, name in images.items() if name},
        "labels_of": "participant" if one_each else "everyone",
        "erosion": settings.erosion,
        "head_size": settings.head_size,
        "merge": dict(settings.merge),
    }


def _cohort(inputs: StudyInputs) -> dict[str, Any]:
    groups = inputs.config.groups
    counts = inputs.members.value_counts()
    return {
        "table": "participants.tsv",
        "group": groups.column if inputs.has_groups else "",
        "order": list(inputs.levels),
        "covariates": list(groups.covariates),
        "subset": groups.subset,
        "reference": inputs.reference if inputs.has_groups or groups.reference else "",
        "n": {name: int(counts[name]) for name in inputs.levels},
        "of": {"table": os.path.basename(inputs.config.study.table), "rows": len(inputs.everyone)},
        "left_out": {"subset": inputs.excluded.false, "undecided": inputs.excluded.unknown},
    }


def _checks(inputs: StudyInputs, ledger: Ledger) -> list[dict[str, str]]:
    """Warnings of the stages, and participants with missing values."""
    checks = [
        {"what": f"{name}: {text}", "kind": "warning"}
        for name, done in ledger.stages.items()
        for text in done["warnings"]
    ]
    columns = inputs.columns
    for name in columns.columns:
        missing = columns[name].isna()
        if missing.any():
            by_group = missing.groupby(inputs.members).sum()
            text = ", ".join(f"{by_group[group]} {group}" for group in inputs.levels if by_group[group])
            checks.append({"what": f"{name} is missing in {text}", "kind": "info"})
    return checks


def _test(inputs: StudyInputs, comparison: Comparison) -> dict[str, Any]:
    each, folder = inputs.maps[comparison.map], inputs.config.out
    root, fsl = inputs.path(comparison.root), comparison.test.fsl
    record = json.loads(Path(f"{root}_randomise.json").read_text(encoding="utf-8"))
    test = next(test for test in record["tests"] if test["name"] == fsl)
    null = f"{root}_tfce_corrp_{fsl}.txt"
    statistic = _image(f"{root}_{fsl}", folder)
    entry = {
        "name": comparison.name,
        "map": comparison.map,
        "title": each.title,
        "unit": each.unit,
        "contrast": _contrast(inputs, comparison),
        "sentence": _sentence(inputs, comparison),
        "kind": record["maps"][os.path.basename(statistic)]["statistic"],
        "method": "TFCE",
        "permutations": test["permutations"],
        "df": test["degrees_of_freedom"],
        "smallest_possible_p": test.get("smallest_possible_p", test.get("smallest_p")),
        "critical": test["critical_values"]["tfce"],
        "observed_maximum": float(np.loadtxt(null, max_rows=1)),
        "statistic": statistic,
        "corrected": _image(f"{root}_tfce_corrp_{fsl}", folder),
        "null": os.path.relpath(null, folder),
    }
    if inputs.config.clusters is not None:
        clusters = f"clusters/{comparison.name}"
        entry |= {"clusters": f"{clusters}.tsv", "subjects": f"{clusters}_subjects.tsv"}
        entry["cluster_image"] = _image(inputs.path(clusters), folder)
    return entry


def _contrast(inputs: StudyInputs, comparison: Comparison) -> str:
    """The title of a test, with the constant with which a mean is compared."""
    constant, test = _constant(inputs, comparison), comparison.test
    return f"{test.title}, against {constant:g}" if constant else test.title


def _sentence(inputs: StudyInputs, comparison: Comparison) -> str:
    """What a test means; a mean is above, or below, the constant with which it is compared."""
    constant, text = _constant(inputs, comparison), comparison.test.sentence
    if not constant:
        return text
    if " plus " in text or " times " in text:  # each of the means is compared with it
        return f"{text}; {constant:g} was subtracted from all values"
    return re.sub(r"\bis (above|below) 0(?=;|$)", rf"is \1 {constant:g}", text)


def _constant(inputs: StudyInputs, comparison: Comparison) -> float:
    """The constant with which a mean is compared; 0 if there is none."""
    section = inputs.config.voxelwise
    return section.against.get(comparison.map, 0.0) if section is not None and comparison.test.is_mean else 0.0


def _groups(inputs: StudyInputs) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    if inputs.config.demographics is not None:
        root = "groups/demographics"
        entries.append(
            {"title": "Demographics", "demographics": f"{root}_demographics.tsv", "json": f"{root}.json"}
        )
    for table in inputs.config.group_table:
        root = f"groups/{slug(table.title)}"
        order = order_of(inputs.config.groups, table)
        named = {"table": f"{root}.tsv", "pairs": f"{root}_pairs.tsv", "json": f"{root}.json"}
        entries.append({"title": table.title, **named, "order": list(order)})
    # If no cluster survived, there may be a note instead of a table.
    return [
        {k: v for k, v in part.items() if k in ("title", "order") or os.path.exists(inputs.path(str(v)))}
        for part in entries
    ]


def _csf(inputs: StudyInputs) -> dict[str, str]:
    """Tables of the references in CSF; empty if there is none."""
    named = {"comparison": csf.COMPARISON, "sensitivity": csf.SENSITIVITY_TABLE, "json": csf.RECORD}
    return named if inputs.compares_csf else {}


def _coefficients(inputs: StudyInputs, ledger: Ledger) -> dict[str, str]:
    """The table of the dependence on coefficients; empty if there is none."""
    return {"table": csf.DEPENDENCE, "json": csf.DEPENDENCE_RECORD} if "coefficients" in ledger.stages else {}


def _models(inputs: StudyInputs) -> list[dict[str, Any]]:
    entries = []
    for kind in MODELS:
        for model in getattr(inputs.config, kind):
            root = f"models/{slug(model.title)}/{kind.replace('_', '')}"
            named = {"table": f"{root}.tsv", "coefficients": f"{root}_coefficients.tsv", "data": f"{root}_data.tsv",
                     "diagnostics": f"{root}_diagnostics.tsv", "ladder": f"{root}_ladder.tsv",
                     "trial": f"{root}_trial.tsv",
                     "json": f"{root}.json"}  # fmt: skip
            there = {key: path for key, path in named.items() if os.path.exists(inputs.path(path))}
            entries.append({"title": model.title, "kind": kind.replace("_", ""), **there})
    return entries
