"""Stages: run once, again only where something they depend on has changed, resumed where they were cut off."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from gpuvox.errors import FileError
from gpuvox.reporter import Reporter
from gpuvox.study.ledger import STATE, Ledger
from gpuvox.study.pipeline import stages
from gpuvox.study.pipeline.stages import Stage


class Study:
    """a → b → d, and c → d; each writes the text of what it reads."""

    def __init__(self, tmp_path):
        self.out = tmp_path / "results"
        self.out.mkdir(exist_ok=True)
        self.source = tmp_path / "source.txt"
        self.source.write_text("source")
        self.settings = {"a": {"x": 1}, "b": {"y": 2}, "c": {"z": [1, 2]}, "d": {}}
        self.ran, self.said, self.fails = [], [], ""

    def stages(self):
        def make(name, after=(), sources=None):
            def work(talk):
                if name == self.fails:
                    raise FileError(f"{name} fails")
                self.ran.append(name)
                parts = [Path(s).read_text() for s in (sources or {}).get("text", ())] + [
                    (self.out / f"{n}.txt").read_text() for n in after
                ]
                # b keeps only whether x is positive: changes of a may leave b as it was.
                text = "+".join(parts) if name != "b" else str("-" not in parts[0])
                (self.out / f"{name}.txt").write_text(f"{name}({text}{self.settings[name]})")
                talk.warn(f"careful with {name}")

            return Stage(name, self.settings[name], (f"{name}.txt",), work, after, sources or {})

        return [
            make("a", sources={"text": (str(self.source),)}), make("b", ("a",)), make("c"), make("d", ("b", "c")),
        ]  # fmt: skip

    def run(self):
        self.ran, self.said = [], []
        stages.run(self.stages(), Ledger.open(self.out), Reporter(self.said.append, self.said.append))
        return "".join(self.ran)

    def plan(self):
        return {p.stage.name: p.reason for p in stages.plan(self.stages(), Ledger.open(self.out))}


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def test_nothing_runs_twice(study):
    assert study.run() == "abcd"
    assert study.run() == ""
    assert study.said == [f"[ {i}/4] {name}: unchanged" for i, name in enumerate("abcd", 1)]


def test_what_changes_runs_again_and_what_depends_on_it(study):
    study.run()
    study.settings["c"]["z"] = [1, 3]
    assert study.plan() == {"a": "", "b": "", "c": "z changed", "d": "c runs"}
    assert study.run() == "cd"


def test_sources_count_by_their_content(study):
    study.run()
    study.source.write_text("source")
    assert study.run() == ""
    study.source.write_text("sauce")
    assert "source.txt changed" in study.plan()["a"]
    # a runs, b comes out the same, so d need not.
    assert study.run() == "ab"
    study.source.write_text("-")
    assert study.run() == "abd"


def test_lost_and_changed_files_are_made_again(study):
    study.run()
    before = (study.out / "d.txt").read_text()
    (study.out / "a.txt").unlink()
    assert study.plan()["a"] == "a file that it wrote is missing or changed"
    assert study.run() == "a"
    (study.out / "b.txt").write_text("tampered")
    assert study.run() == "b"
    assert (study.out / "d.txt").read_text() == before


def test_an_interrupted_run_goes_on(study):
    study.fails = "c"
    with pytest.raises(FileError, match="c fails"):
        study.run()
    study.fails = ""
    assert study.run() == "cd"


def test_a_failed_stage_leaves_nothing_of_an_older_one(study):
    study.run()
    study.settings["c"]["z"], study.fails = [], "c"
    with pytest.raises(FileError):
        study.run()
    assert not (study.out / "c.txt").exists()


def test_another_version_runs_all(study, monkeypatch):
    study.run()
    monkeypatch.setattr(stages, "__version__", "9.9")
    assert study.plan()["a"].startswith("gpuvox was ")
    assert study.run() == "abcd"


def test_warnings_and_times_are_kept(study):
    study.run()
    ledger = Ledger.open(study.out)
    assert ledger.stages["b"]["warnings"] == ["careful with b"]
    assert ledger.stages["b"]["seconds"] >= 0


def test_stages_that_are_no_longer_there_are_removed(study):
    study.run()
    ledger = Ledger.open(study.out)
    stages.remove_others(ledger, ["a", "b", "d"])
    assert not (study.out / "c.txt").exists()
    assert study.run() == "c"


def test_a_stage_must_write_what_it_says(study):
    bad = Stage("bad", {}, ("never.txt",), lambda talk: None)
    with pytest.raises(FileError, match=r"bad did not write .*never\.txt"):
        stages.run([bad], Ledger.open(study.out), Reporter(print, print))


def test_folders_of_others_are_left_alone(study):
    (study.out / "thesis.doc").write_text("years of work")
    with pytest.raises(FileError, match="not empty, and was not made by gpuvox study"):
        study.run()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "stages": 3, "hashes": {}}'])
def test_a_damaged_ledger_is_refused(study, text):
    study.run()
    (study.out / STATE).write_text(text)
    with pytest.raises(FileError, match="damaged"):
        study.run()


def test_a_ledger_of_another_format(study):
    study.run()
    (study.out / STATE).write_text('{"format": 99}')
    with pytest.raises(FileError, match="another version"):
        study.run()


def test_a_ledger_cannot_remove_files_elsewhere(study, tmp_path):
    study.run()
    precious = tmp_path / "precious.txt"
    precious.write_text("x")
    content = json.loads((study.out / STATE).read_text())
    for path in ("../precious.txt", str(precious)):
        content["stages"]["c"]["outputs"] = {path: [0, 0]}
        (study.out / STATE).write_text(json.dumps(content))
        with pytest.raises(FileError, match="is outside the folder"):
            study.run()
    assert precious.exists()


def _hold(folder, ready, done):
    with stages.locked(folder):
        ready.set()
        done.wait(30)


def test_one_process_at_a_time(study):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(study.out, ready, done))
    other.start()
    assert ready.wait(30)
    with pytest.raises(FileError, match="another gpuvox study"), stages.locked(study.out):
        pass
    done.set()
    other.join()
    with stages.locked(study.out):
        pass


def test_files_that_change_places_are_noticed(tmp_path):
    """Two sources whose sizes and times are alike, and two whose parts are exchanged."""
    out = tmp_path / "results"
    out.mkdir()
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("AAAA")
    other.write_text("BBBB")
    for path in (one, other):
        os.utime(path, ns=(10**18, 10**18))

    def study(first, second):
        def work(talk):
            (out / "o.txt").write_text(first.read_text() + second.read_text())

        sources = {"first": (str(first),), "second": (str(second),)}
        stages.run([Stage("s", {}, ("o.txt",), work, (), sources)], Ledger.open(out), Reporter(print, print))
        return (out / "o.txt").read_text()

    assert study(one, other) == "AAAABBBB"
    assert study(other, one) == "BBBBAAAA"
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    assert study(other, one) == "AAAABBBB"
    os.utime(out / "o.txt", ns=(10**18, 10**18))
    (out / "o.txt").write_text("XXXXXXXX")
    os.utime(out / "o.txt", ns=(10**18, 10**18))
    assert study(other, one) == "AAAABBBB"
