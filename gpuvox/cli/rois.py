"""``gpuvox rois``: tables of regions of interest."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, UsageError, count, pair
from gpuvox.cli.talk import warn

EPILOG = """\
IMAGE is a column of the table (a path for each subject, relative to the table) or a file: 4D with a volume a subject in
the table's order; labels and lesions may be one 3D image for everyone. Writes a row for each participant, structure,
side and map: n, mean, median, SD, volume (mL; with Jacobians, their sum), normalised volume, and for maps named iron
and myelin the mass (mg, mL; with --head-size that of the normalised volume), and mass_raw (of the volume). Example:
  gpuvox rois --table participants.tsv --labels template/labels --names template/labels.tsv --map iron=maps/iron \\
    --map myelin=maps/myelin --jacobian jacobian --merge 'thalamus=thalamus_*' --out rois.tsv
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `rois.Command`."""
    parser = Parser(
        prog="gpuvox rois",
        description=f"Volume, mean, median and SD of maps in regions of interest (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--table", metavar="FILE", help="table of the subjects, with a column participant_id")
    add("--labels", metavar="IMAGE", help="label image, or images")
    add("--names", metavar="FILE", default="", help="index and name of labels, or a FreeSurfer look-up table")
    add("--map", dest="maps", metavar="NAME=IMAGE", action="append", type=pair, help="a map; may be repeated")
    add("--merge", dest="merged", metavar="NAME=PATTERN", action="append", type=pair, help="several as one more")
    add("--jacobian", metavar="IMAGE", default="", help="determinants of the template-to-subject map")
    add("--lesions", metavar="IMAGE", default="", help="left out of means, medians and SDs")
    add("--head-size", metavar="COLUMN", default="", help="factor that normalises volumes and masses")
    add(
        "--erosion", type=count, metavar="N", default=0, help="voxels of border to leave out of the statistics (0)"
    )
    add("--out", metavar="FILE", help="the table to write")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("table", "labels", "maps", "out"):
        if not options[name]:
            raise UsageError(f"--{name.removesuffix('s') if name == 'maps' else name} is missing")
    for name in ("maps", "merged"):
        pairs = options[name] or []
        if len(dict(pairs)) < len(pairs):
            raise UsageError(f"a name is given twice: {', '.join(key for key, _ in pairs)}")
        options[name] = dict(pairs)
    from gpuvox.cli.progress import shown
    from gpuvox.study.rois import Command, execute

    with shown(options.pop("quiet"), "subjects") as progress:
        execute(Command(**options), progress, warn)
    return 0
