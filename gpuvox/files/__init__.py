"""Every file that is read or written: NIfTI images, FSL's VEST matrices, tables, permutations, JSON.

Images are streamed: a cohort is decompressed once, from the first volume to the last, with one volume in memory, and
only the voxels of the mask are kept, as float32. Files are written under a temporary name in the folder they belong to
and renamed when complete, so that a name never stands for half a file.

Whatever is wrong with a file is a `FileError` whose one sentence names the file. Other rooms import the names listed
here from here, and `locks`, `targets` and `rounding` by name.
"""

from gpuvox.files.contents import MOST_SETTINGS, hash_file, read_bytes, read_json
from gpuvox.files.headers import MOST_HEADER, ImageHeader, header_of, read_header, sidecar
from gpuvox.files.images import (
    automatic_mask,
    combined_volumes,
    count_volumes,
    first_volumes,
    mask_of,
    read_cohort,
    read_label_map,
    read_map,
    read_mask,
    read_mask_on,
    read_tiles,
    read_volumes_like,
    some_volumes,
    stacked,
    weighted_sums,
)
from gpuvox.files.maps import GEOMETRY, GZIP_LEVEL, Label, make_image, open_map, write_map
from gpuvox.files.matrices import ID_COLUMNS, Matrix, read_matrix, read_named_matrix, read_numbers, write_vest
from gpuvox.files.names import (
    FILE_TYPES,
    are_names,
    find_image,
    image_files,
    image_names,
    output_type,
    split_suffix,
)
from gpuvox.files.notices import notice
from gpuvox.files.orientation import affines_match, format_shape
from gpuvox.files.permutations import (
    find_permidx,
    read_permutations,
    write_column,
    write_permidx,
    write_permutations,
)
from gpuvox.files.placement import check_grid, check_headers, placed_like
from gpuvox.files.tables import read_table, write_table
from gpuvox.files.targets import check_not_read, check_output_root
from gpuvox.files.text import Name
from gpuvox.files.volumes import Progress, read_labels, read_volumes
from gpuvox.files.writing import atomic, write_json, write_text

__all__ = [
    "FILE_TYPES",
    "GEOMETRY",
    "GZIP_LEVEL",
    "ID_COLUMNS",
    "MOST_HEADER",
    "MOST_SETTINGS",
    "ImageHeader",
    "Label",
    "Matrix",
    "Name",
    "Progress",
    "affines_match",
    "are_names",
    "atomic",
    "automatic_mask",
    "check_grid",
    "check_headers",
    "check_not_read",
    "check_output_root",
    "combined_volumes",
    "count_volumes",
    "find_image",
    "find_permidx",
    "first_volumes",
    "format_shape",
    "hash_file",
    "header_of",
    "image_files",
    "image_names",
    "make_image",
    "mask_of",
    "notice",
    "open_map",
    "output_type",
    "placed_like",
    "read_bytes",
    "read_cohort",
    "read_header",
    "read_json",
    "read_label_map",
    "read_labels",
    "read_map",
    "read_mask",
    "read_mask_on",
    "read_matrix",
    "read_named_matrix",
    "read_numbers",
    "read_permutations",
    "read_table",
    "read_tiles",
    "read_volumes",
    "read_volumes_like",
    "sidecar",
    "some_volumes",
    "split_suffix",
    "stacked",
    "weighted_sums",
    "write_column",
    "write_json",
    "write_map",
    "write_permidx",
    "write_permutations",
    "write_table",
    "write_text",
    "write_vest",
]
