"""The table for people."""

from __future__ import annotations

from bench.device.lab import Report, say


def line_of(row: dict) -> str:
    """A timing in a line."""
    spread = 100 * (row["slowest_ms"] - row["fastest_ms"]) / row["ms"] if row["ms"] else 0.0
    floor = f"{row['floor_ms']:10.3f} {row['times_the_floor']:7.1f}" if "floor_ms" in row else f"{'':18}"
    more = f"  {row['times_the_device']:.1f} x the device" if row.get("times_the_device") else ""
    if row.get("seconds_for", {}).get("scaled"):
        of = row["seconds_for"]
        more += f"  {of['permutations']:,} permutations: {of['s']:.2f} s (scaled)"
    return f"{row['name'][:86]:86} {row['ms']:11.3f} {spread:4.0f} % {row['us_per_map']:10.2f} {floor}{more}"


def table(report: Report) -> None:
    """Everything, for people."""
    say("")
    say(f"{report.facts.get('device')}, commit {report.facts.get('commit')}")
    if report.timings:
        say(f"{'':86} {'ms':>11} {'range':>6} {'us/map':>10} {'floor ms':>10} {'x floor':>7}")
        for row in report.timings:
            say(line_of(row))
    for each in report.breakdowns:
        show_breakdown(each)
    for row in report.timings:
        for stage, seconds in row.get("processes_s", {}).get("stages", {}).items():
            say(f"    command, {stage:34} {seconds:8.3f} s")
    for each in report.phases:
        shares = ", ".join(f"{row['phase']} {100 * row['share']:.0f} %" for row in each["phases"])
        say(f"{each['kernel']}: {shares}")
    if report.facts.get("tuning"):
        say(f"faster launches:\n{report.facts['tuning']}")
    show_outcome(report)


def show_breakdown(breakdown: dict) -> None:
    """Where the time of a batch goes, beside what was predicted."""
    name, ms, alone = breakdown["name"], breakdown["ms"]["ms"], breakdown["ms_one_call_at_a_time"]
    say(f"{name}: {ms:.2f} ms; one call at a time {alone:.2f} ms:")
    for stage, ms in sorted(breakdown["stages_ms"].items(), key=lambda item: -item[1]):
        predicted = breakdown["predicted_us_per_map_on_an_h100"][stage]
        beside = "" if predicted is None else f", predicted for an H100 {predicted:.2f}"
        say(f"    {stage:30} {ms:10.3f} ms {breakdown['stages_us_per_map'][stage]:8.2f} us a map{beside}")


def show_outcome(report: Report) -> None:
    """What failed, and what was left out."""
    for entry in report.sanitizer:
        say(f"{entry['name']}: {entry['verdict']} {entry['summary']}")
    for text in report.skipped:
        say(f"skipped: {text}")
    if report.left_out:
        say(f"left out for time: {'; '.join(report.left_out)}")
    for step in report.steps:
        if step["outcome"] != "done":
            say(f"{step['name']}: {step['outcome']}")
    if report.checks and report.unchecked_kernels:
        say(f"kernels that no check reached: {', '.join(report.unchecked_kernels)}")
    failed = report.failed
    say(f"{len(report.checks)} checks, {len(failed)} failed" + (": " + "; ".join(failed) if failed else ""))
