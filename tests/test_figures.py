"""The report's figures do not depend on the user's own settings of matplotlib."""

import pytest
from matplotlib import rc_context

from gpuvox.findings import figures


def test_settings_of_the_user_change_nothing():
    plain = figures.colour_bar(5.0, "t")
    others = {"text.usetex": True, "font.size": 30, "savefig.transparent": True, "axes.facecolor": "red"}
    with rc_context(others):
        assert figures.colour_bar(5.0, "t") == plain


def test_a_flow_chart_has_room_for_every_group_and_every_reason():
    two = figures.flow_chart("rows: 9", "excluded: 3", ["a: 4", "b: 2"], ["tests: 6"])
    six = figures.flow_chart("rows: 9", "", [f"{name}: 1" for name in "abcdef"], ["tests: 6"])
    assert six.width / two.width == pytest.approx(6 * 1.7 / 6.4)  # the boxes are 1.7 apart
    why = figures.flow_chart("rows: 9", "excluded: 3\nfalse: 2\nmissing: 1", ["a: 4", "b: 2"], ["tests: 6"])
    assert why.height > two.height  # its box ends above the line to the groups
