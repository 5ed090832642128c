"""Linear mixed models against their likelihood and a simulated truth; sample sizes of trials as printed."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from gpuvox.cli.main import guarded
from gpuvox.cli.models import run
from gpuvox.errors import InputError
from gpuvox.study.statistics import restricted_likelihood as reml
from gpuvox.study.statistics.mixed import Mixed, mixed, trial_sizes
from gpuvox.study.statistics.restricted_likelihood import restricted_fit


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    """MS loses 0.8 % per year of 20 mL, HC 0.2 %; visits are missing."""
    rng, rows = np.random.default_rng(2), []
    for i in range(80):
        group, age = ("MS", "HC")[i % 2], rng.normal(40, 10)
        base, slope = rng.normal(20, 1.5), rng.normal(-0.16 if group == "MS" else -0.04, 0.05)
        for t in (0, 0.5, 1, 2, 3):
            if t == 0 or rng.random() < 0.85:
                y = base - 0.02 * (age - 40) + slope * t + rng.normal(0, 0.1)
                rows.append((f"s{i:02d}", group, age, t, y, 100 * y, rng.normal()))
    table = pd.DataFrame(rows, columns=["participant_id", "group", "age", "years", "volume", "scaled", "noise"])
    path = tmp_path_factory.mktemp("mixed") / "visits.tsv"
    table.to_csv(path, sep="\t", index=False)
    return table, str(path)


def restricted_likelihood(table, variances):
    """Generalised least squares with these variances: estimates, their covariance, and the likelihood."""
    sd_intercept, sd_slope, correlation, sd_residual = variances
    product = correlation * sd_intercept * sd_slope
    D = np.array([[sd_intercept**2, product], [product, sd_slope**2]])
    gram, moment, parts, logarithm, quadratic = 0, 0, [], 0.0, 0.0
    for _, part in table.groupby("participant_id"):
        ms, t = (part["group"] == "MS").to_numpy() * 1.0, part["years"].to_numpy()
        X = np.column_stack([ms, 1 - ms, ms * t, (1 - ms) * t, part["age"] - 40])
        Z, y = np.column_stack([np.ones(len(t)), t]), part["volume"].to_numpy()
        V = Z @ D @ Z.T + sd_residual**2 * np.eye(len(t))
        weight = np.linalg.inv(V)
        gram, moment = gram + X.T @ weight @ X, moment + X.T @ weight @ y
        logarithm += np.linalg.slogdet(V)[1]
        parts.append((X, weight, y))
    covariance = np.linalg.inv(gram)
    b = covariance @ moment
    for X, weight, y in parts:
        quadratic += (y - X @ b) @ weight @ (y - X @ b)
    return b, covariance, -(logarithm + quadratic + np.linalg.slogdet(gram)[1]) / 2


def test_changes_maximise_the_restricted_likelihood(visits):
    table, path = visits
    command = Mixed(
        table=path, outcome=["volume"], time="years", group="group", order=["MS", "HC"], covariates=["age"]
    )
    rows = mixed(command).tables[""].set_index("effect")
    names = ["sd_intercept", "sd_slope", "correlation", "sd_residual"]
    variances = rows.loc["MS", names].to_numpy(dtype=float)
    b, covariance, best = restricted_likelihood(table, variances)
    for i, group in ((2, "MS"), (3, "HC")):
        row = rows.loc[group]
        assert row["change"] == pytest.approx(b[i], rel=1e-4)
        assert row["se"] == pytest.approx(np.sqrt(covariance[i, i]), rel=1e-3)
    for j in range(4):
        for factor in (0.9, 1.1):
            moved = variances.copy()
            moved[j] *= factor
            assert restricted_likelihood(table, moved)[2] < best + 1e-6
    difference = rows.loc["MS - HC"]
    contrast = np.array([0, 0, 1, -1, 0])
    assert difference["change"] == pytest.approx(contrast @ b, rel=1e-4)
    assert difference["se"] == pytest.approx(np.sqrt(contrast @ covariance @ contrast), rel=1e-3)
    assert difference["low"] < -0.12 < difference["high"]
    assert rows.loc["MS", "percent_low"] < -0.8 < rows.loc["MS", "percent_high"]
    for name, truth in (("sd_intercept", 1.5), ("sd_slope", 0.05), ("sd_residual", 0.1)):
        assert rows.loc["MS", name] == pytest.approx(truth, rel=0.2)
    assert rows["note"].isna().all()
    baseline = b[0] + b[4] * (table["age"].mean() - 40)
    assert rows.loc["MS", "percent"] == pytest.approx(100 * b[2] / baseline, rel=1e-4)
    counted = table[table["group"] == "MS"]
    assert (rows.loc["MS", "n"], rows.loc["MS", "n_visits"]) == (40, len(counted))


def test_units_do_not_matter_and_intercepts_alone(visits):
    table, path = visits
    options = {"table": path, "time": "years", "random": "intercept"}
    rows = mixed(Mixed(outcome=["volume", "scaled", "noise"], **options)).tables[""].set_index("outcome")
    assert rows.loc["scaled", "change"] == pytest.approx(100 * rows.loc["volume", "change"], rel=1e-4)
    assert rows.loc["scaled", "p"] == pytest.approx(rows.loc["volume", "p"], rel=1e-3)
    fit = smf.mixedlm("volume ~ years", table, groups="participant_id").fit()
    assert rows.loc["volume", "change"] == pytest.approx(fit.params["years"], rel=1e-4)
    assert rows.loc["volume", "p_corrected"] >= rows.loc["volume", "p"]
    assert rows["sd_slope"].isna().all()


def test_rows_left_out_are_those_of_the_condition_on_the_files(visits):
    table, path = visits
    options = {"table": path, "time": "years", "random": "intercept"}
    result = mixed(Mixed(outcome=["volume"], log=["volume"], subset="volume > 19", **options))
    assert result.record["subset_leaves_out"] == {"false": (table["volume"] <= 19).sum(), "value_missing": 0}


def test_percentages_of_logarithms_are_of_the_value_itself(visits):
    """Volumes lose 0.8 % and 0.2 % a year; their logarithms do not lose that share of themselves."""
    _, path = visits
    options = {"table": path, "time": "years", "group": "group", "order": ["MS", "HC"], "random": "intercept"}
    result = mixed(Mixed(outcome=["volume"], log=["volume"], **options))
    rows = result.tables[""].set_index("effect")
    for effect, truth in (("MS", -0.8), ("HC", -0.2)):
        row = rows.loc[effect]
        assert row["percent"] == pytest.approx(100 * np.expm1(row["change"]))
        assert row["percent"] == pytest.approx(truth, abs=0.12)
        half = 100 * np.exp(row["change"]) * (row["high"] - row["low"]) / 2
        assert row["percent_high"] - row["percent"] == pytest.approx(half)
    assert rows.loc["MS - HC", "percent"] == pytest.approx(rows.loc["MS", "percent"] - rows.loc["HC", "percent"])
    roots = mixed(Mixed(outcome=["volume"], sqrt=["volume"], **options))
    assert roots.tables[""]["percent"].isna().all()
    assert not any("nan" in line for line in roots.messages)


@pytest.mark.parametrize(
    "number", [pytest.param(i, marks=() if i in (1, 4, 10) else pytest.mark.long) for i in range(12)]
)
def test_estimates_are_those_of_lme4(number):
    """Its output for the data that come with statsmodels; at the limit in the second, with slopes in the last six."""
    printed = importlib.import_module("statsmodels.regression.tests.results.lme_r_results")
    table = pd.read_csv(Path(printed.__file__).with_name(f"lme{number:02d}.csv"))
    X, Z = (table.filter(like=f"exog_{kind}").to_numpy() for kind in ("fe", "re"))
    fit = restricted_fit(table["endog"], X, Z, table["groups"].to_list())
    of = {name: getattr(printed, f"{name}_reml_drf_{number}") for name in ("coef", "vcov", "cov_re", "scale")}
    np.testing.assert_allclose(fit.effects, of["coef"], rtol=2e-6)
    np.testing.assert_allclose(fit.covariance, of["vcov"], rtol=2e-5)
    np.testing.assert_allclose(fit.random, of["cov_re"], rtol=1e-4, atol=1e-9)
    assert fit.residual == pytest.approx(of["scale"][0], rel=1e-5)
    assert fit.likelihood == pytest.approx(getattr(printed, f"loglike_reml_drf_{number}")[0], abs=2e-4)
    assert fit.converged
    assert fit.at_limit == (number == 1)


@pytest.mark.parametrize("residual", [0.001, 1e-5])
def test_fits_converge_however_small_the_residuals(residual):
    """The deviance is rounded by more than a search needs to call itself a success."""
    table = few_visits(0, residual, 0)
    X = np.column_stack([np.ones(len(table)), table["years"]])
    fit = restricted_fit(table["volume"] - 20, X, X, table["participant_id"].to_list())
    assert fit.converged
    assert np.sqrt(fit.residual) == pytest.approx(residual, rel=0.25)
    spread = table.loc[table["years"] == 0, "volume"].std()
    assert np.sqrt(fit.random[0, 0]) == pytest.approx(spread, rel=1e-3)


def few_visits(sd_slope, residual, seed, times=(0, 1, 2)):
    """24 participants, whose changes and residuals have these SDs."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(24):
        base, slope = rng.normal(20, 1.5), rng.normal(-0.1, sd_slope)
        rows += [(f"s{i:02d}", t, base + slope * t + rng.normal(0, residual)) for t in times]
    return pd.DataFrame(rows, columns=["participant_id", "years", "volume"])


def trial_of(table, tmp_path):
    path = tmp_path / "visits.tsv"
    table.to_csv(path, sep="\t", index=False)
    result = mixed(Mixed(table=str(path), outcome=["volume"], time="years", visits=[0, 1, 2]))
    return result.tables[""].iloc[0], result.tables["_trial"].iloc[0], result.messages


def test_a_variance_of_changes_that_is_0_makes_sample_sizes_lower_bounds(tmp_path):
    """Everyone's line by least squares is as steep."""
    table = few_visits(0, 0, 6)
    table["volume"] += np.outer(np.linspace(-0.1, 0.1, 24), [1, -2, 1]).ravel()
    row, trial, messages = trial_of(table, tmp_path)
    assert row["sd_slope"] == 0
    assert np.isnan(row["correlation"])
    assert row["note"] == "the variance of the changes is estimated as 0"
    assert trial["note"] == "lower bounds: the variance of the changes is estimated as 0, and may be larger"
    assert trial["n_one_arm"] == np.ceil(trial_sizes(row["change"], 0, row["sd_residual"], [0, 1, 2])[2])
    assert any("lower bounds" in line and "in each of two arms" in line for line in messages)
    # Without random slopes it is the same model.
    path = str(tmp_path / "visits.tsv")
    alone = mixed(Mixed(table=path, outcome=["volume"], time="years", random="intercept")).tables[""].iloc[0]
    assert row["se"] == pytest.approx(alone["se"], rel=1e-4)


def test_a_perfect_correlation_makes_sample_sizes_uncertain(tmp_path):
    """Not bounds: a third of such estimates are above the truth if it is a correlation of 0.8."""
    row, trial, _ = trial_of(few_visits(0, 0.1, 6), tmp_path)
    assert row["sd_slope"] > 0
    assert abs(row["correlation"]) == pytest.approx(1)
    assert row["note"] == "intercepts and changes are estimated to correlate perfectly"
    assert trial["note"] == "uncertain: intercepts and changes are estimated to correlate perfectly"
    row, trial, _ = trial_of(few_visits(0.05, 0.05, 6), tmp_path)
    assert abs(row["correlation"]) < 1
    assert trial["note"] is None


def test_a_change_that_may_be_0_gives_no_upper_bound_of_sample_sizes(tmp_path):
    row, trial, _ = trial_of(few_visits(0.5, 0.05, 0), tmp_path)
    assert row["low"] < 0 < row["high"]
    assert trial["note"] == "no upper bounds: the 95 % interval of the change includes 0"


def test_a_fit_that_does_not_converge_gives_no_sample_size(tmp_path, monkeypatch):
    monkeypatch.setattr(reml, "SEARCHES", 1)
    row, trial, messages = trial_of(few_visits(0.05, 0.05, 6), tmp_path)
    assert row["note"] == "the fit did not converge"
    assert pd.isna(trial["n_two_arms"])
    assert pd.isna(trial["sd_change"])
    assert trial["note"] == "not determined: the fit did not converge"
    assert messages[-1].endswith("participants that a trial needs is not determined: the fit did not converge")


def test_two_visits_cannot_tell_slopes_from_residuals(tmp_path):
    with pytest.raises(InputError, match="more than 2 visits, too few to tell random effects from residuals"):
        trial_of(few_visits(0.05, 0.05, 6, times=(0, 1)), tmp_path)
    with pytest.raises(InputError, match="the random effects fit each participant's values exactly"):
        trial_of(few_visits(0.05, 0, 6), tmp_path)


def test_covariates_that_explain_everything_are_told(tmp_path):
    path = tmp_path / "visits.tsv"
    table = few_visits(0.05, 0.05, 6)
    table.assign(same=2 * table["volume"] + 1).to_csv(path, sep="\t", index=False)
    with pytest.raises(InputError, match="groups, times and covariates explain all of its values exactly"):
        mixed(Mixed(table=str(path), outcome=["volume"], time="years", covariates=["same"]))


def test_a_group_of_one_participant_is_refused(tmp_path):
    path = tmp_path / "visits.tsv"
    table = few_visits(0.05, 0.05, 6)
    table.assign(group=np.where(table["participant_id"] == "s03", "B", "A")).to_csv(path, sep="\t", index=False)
    command = Mixed(table=str(path), outcome=["volume"], time="years", group="group", order=["A", "B"])
    with pytest.raises(InputError, match="volume: one participant of group B has all values; two are needed"):
        mixed(command)


def test_a_covariate_that_is_constant_is_named(tmp_path):
    path = tmp_path / "visits.tsv"
    few_visits(0.05, 0.05, 6).assign(age=40).to_csv(path, sep="\t", index=False)
    command = Mixed(table=str(path), outcome=["volume"], time="years", covariates=["age"])
    with pytest.raises(InputError, match="the covariate age has the same value at all visits analysed"):
        mixed(command)


def test_there_is_no_percentage_of_a_baseline_that_may_be_0(tmp_path):
    table = few_visits(0.05, 0.05, 6)
    row, _, messages = trial_of(table.assign(volume=table["volume"] - 20), tmp_path)
    assert pd.isna(row["percent"])
    assert not any("%" in line or "nan" in line for line in messages if line.startswith("volume, everyone"))
    assert trial_of(table, tmp_path)[0]["percent"] < 0


def test_trials_as_printed():
    """R's longpower, example of Alzheimer's disease: 207.31 in each arm."""
    visits = np.arange(0, 1.51, 0.25)
    sd, two, one = trial_sizes(1.5, np.sqrt(24), np.sqrt(10), visits)
    assert two == pytest.approx(207.310, abs=5e-3)
    assert one == pytest.approx(two / 2)
    assert sd == pytest.approx(np.sqrt(24 + 10 / 1.75))
    with pytest.raises(InputError, match="two different times"):
        trial_sizes(1, 1, 1, [1.0])


def test_the_command(visits, tmp_path, capsys):
    _, path = visits
    out = tmp_path / "change"
    base = ["mixed", "--table", path, "--time", "years", "--outcome", "volume", "--out", str(out)]
    line = [*base, "--group", "group", "--order", "MS,HC", "--trial", "0,1,2", "--reduction", "0.5"]
    assert guarded("models", lambda: run(line)) == 0
    assert "volume, MS - HC: " in capsys.readouterr().out
    rows = pd.read_csv(f"{out}.tsv", sep="\t").set_index("effect")
    trial = pd.read_csv(f"{out}_trial.tsv", sep="\t").iloc[0]
    ms = rows.loc["MS"]
    expected = trial_sizes(0.5 * rows.loc["MS - HC", "change"], ms["sd_slope"], ms["sd_residual"], [0, 1, 2])
    assert (trial["n_two_arms"], trial["n_one_arm"]) == tuple(np.ceil(expected[1:]))
    for extra, says in (
        (["--trial", "0,1", "--random", "intercept"], "the size of a trial needs random slopes"),
        (["--subset", "years == 0"], "fewer than three participants have two visits"),
        (["--clusters", f"a={path}"], "has a row for each participant, not for each visit"),
        (["--rois", path], "and --rois need each other"),
        (["--log", "volume", "--sqrt", "volume"], "volume is transformed already (--log)"),
        (["--group", "group", "--order", "MS,XX"], "no participant has group 'XX'"),
    ):
        assert guarded("models", lambda extra=extra: run([*base, *extra])) == 2
        assert says in capsys.readouterr().err


def test_regions_of_visits(tmp_path, monkeypatch, capsys):
    """A label of 1 to 4 voxels at each of three visits, measured without a map and modelled."""
    import nibabel as nib

    from gpuvox.cli.main import main

    rng, rows = np.random.default_rng(0), []
    (tmp_path / "names.tsv").write_text("index\tname\n1\tcore\n")
    for i in range(6):
        for t in (0, 1, 2):
            labels = np.zeros((30, 4, 4), dtype=np.int16)
            labels[: 20 - 2 * t + int(rng.integers(0, 3)), i % 4, 0] = 1
            nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / f"{i}_{t}.nii")
            rows.append((f"s{i}", f"v{t}", t, f"{i}_{t}.nii", (labels > 0).sum() / 1000))
    table = pd.DataFrame(rows, columns=["participant_id", "session", "years", "labels", "truth"])
    table.to_csv(tmp_path / "visits.tsv", sep="\t", index=False)
    monkeypatch.chdir(tmp_path)
    line = [
        "rois",
        "--table",
        "visits.tsv",
        "--labels",
        "labels",
        "--names",
        "names.tsv",
        "--out",
        "rois.tsv",
        "--quiet",
    ]
    assert main([*line, "--visit", "session"]) == 0
    measured = pd.read_csv("rois.tsv", sep="\t")
    assert measured["volume"].tolist() == pytest.approx(table["truth"].tolist())
    assert measured["session"].tolist() == table["session"].tolist()
    options = {"table": "visits.tsv", "time": "years", "random": "intercept"}
    both = [
        mixed(Mixed(outcome=["core.volume"], rois="rois.tsv", visit="session", **options)),
        mixed(Mixed(outcome=["truth"], **options)),
    ]
    assert both[0].tables[""]["change"][0] == pytest.approx(both[1].tables[""]["change"][0])
    assert main(line) == 2
    assert "has participant_id s0 twice" in capsys.readouterr().err
    table.assign(labels=["0_0.nii", "0_0.nii", *table["labels"][2:]]).to_csv("same.tsv", sep="\t", index=False)
    assert main(["rois", "--table", "same.tsv", *line[3:-2], "same_rois.tsv", "--visit", "session"]) == 0
    assert "0_0.nii is the image both of s0 at v0 and of s0 at v1" in capsys.readouterr().err
    table.assign(session="v0").to_csv("visits.tsv", sep="\t", index=False)
    assert main([*line, "--visit", "session"]) == 2
    assert "has s0 twice at session v0" in capsys.readouterr().err
