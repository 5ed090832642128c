"""The report's figures do not depend on the user's own settings of matplotlib."""

from matplotlib import rc_context

from gpuvox.findings import figures


def test_settings_of_the_user_change_nothing():
    plain = figures.colour_bar(5.0, "t")
    others = {"text.usetex": True, "font.size": 30, "savefig.transparent": True, "axes.facecolor": "red"}
    with rc_context(others):
        assert figures.colour_bar(5.0, "t") == plain
