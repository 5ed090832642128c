"""An interface for nipype: `Randomise` has the inputs and outputs of ``nipype.interfaces.fsl.Randomise``, and more.

To change a workflow over, import `Randomise` from here. Thresholds and TFCE's parameters reach the command as they are
given; nipype's own interface rounds them to one or two decimals.
"""

from __future__ import annotations

import os
from glob import escape, glob
from typing import Any

from nipype.interfaces.base import (
    CommandLine,
    CommandLineInputSpec,
    File,
    InputMultiPath,
    OutputMultiPath,
    Str,
    TraitedSpec,
    traits,
)

__all__ = ["Randomise"]


class _RandomiseInputSpec(CommandLineInputSpec):
    in_file = File(desc="4D image, a volume per row of the design", exists=True, argstr="-i %s", mandatory=True)
    base_name = Str("randomise", desc="root of the names of all files", argstr="-o %s", usedefault=True)
    mask = File(desc="mask image", exists=True, argstr="-m %s")
    design_mat = File(desc="design matrix", exists=True, argstr="-d %s")
    tcon = File(desc="t contrasts", exists=True, argstr="-t %s")
    fcon = File(desc="F tests", exists=True, argstr="-f %s")
    x_block_labels = File(desc="exchangeability blocks", exists=True, argstr="-e %s")
    whole_blocks = traits.Bool(
        desc="permute blocks as wholes", argstr="--permuteBlocks", requires=["x_block_labels"]
    )
    demean = traits.Bool(desc="demean data and design", argstr="-D")
    one_sample_group_mean = traits.Bool(desc="test the mean of one sample by sign flips", argstr="-1")
    vox_p_values = traits.Bool(desc="voxelwise p-values", argstr="-x")
    tfce = traits.Bool(desc="TFCE with FSL's parameters for volumes", argstr="-T")
    tfce2D = traits.Bool(desc="TFCE with FSL's parameters for skeletons", argstr="--T2")
    f_only = traits.Bool(desc="run F tests only", argstr="--fonly", requires=["fcon"])
    raw_stats_imgs = traits.Bool(desc="write the unpermuted statistics", argstr="-R")
    p_vec_n_dist_files = traits.Bool(desc="write permutations and null distributions", argstr="-P")
    uncorrected = traits.Bool(desc="write uncorrected p-values of every statistic", argstr="--uncorrp")
    num_perm = traits.Int(desc="number of permutations; 0 for all", argstr="-n %d")
    seed = traits.Int(desc="seed of the random permutations", argstr="--seed=%d")
    var_smooth = traits.Float(desc="SD of variance smoothing in mm", argstr="-v %r")
    c_thresh = traits.Float(desc="t threshold of clusters, by extent", argstr="-c %r")
    cm_thresh = traits.Float(desc="t threshold of clusters, by mass", argstr="-C %r")
    f_c_thresh = traits.Float(desc="F threshold of clusters, by extent", argstr="-F %r")
    f_cm_thresh = traits.Float(desc="F threshold of clusters, by mass", argstr="-S %r")
    tfce_H = traits.Float(desc="TFCE's exponent of height", argstr="--tfce_H=%r")
    tfce_E = traits.Float(desc="TFCE's exponent of extent", argstr="--tfce_E=%r")
    tfce_C = traits.Enum(6, 18, 26, desc="TFCE's connectivity", argstr="--tfce_C=%d")
    tfce_exact = traits.Bool(desc="TFCE as an integral, without steps", argstr="--tfce-exact")
    voxelwise_evs = traits.List(traits.Int, desc="columns of voxelwise EVs, from 1", argstr="--vxl=%s", sep=",",
                                requires=["voxelwise_ev_files"])  # fmt: skip
    voxelwise_ev_files = InputMultiPath(File(exists=True), desc="their 4D images", argstr="--vxf=%s", sep=",",
                                        requires=["voxelwise_evs"])  # fmt: skip
    device = Str(desc="cpu, cuda, cuda:0 …", argstr="--device %s")
    threads = traits.Int(desc="number of threads; all processors by default", argstr="--threads %d", nohash=True)
    checkpoint = File(desc="file that keeps what is done", argstr="--checkpoint %s", nohash=True)
    resume = traits.Bool(desc="go on from the checkpoint", argstr="--resume", requires=["checkpoint"], nohash=True)


class _RandomiseOutputSpec(TraitedSpec):
    tstat_files = OutputMultiPath(File(exists=True), desc="t statistics")
    fstat_files = OutputMultiPath(File(exists=True), desc="F statistics")
    t_p_files = OutputMultiPath(File(exists=True), desc="uncorrected 1 - p of t tests")
    f_p_files = OutputMultiPath(File(exists=True), desc="uncorrected 1 - p of F tests")
    t_corrected_p_files = OutputMultiPath(File(exists=True), desc="corrected 1 - p of t tests")
    f_corrected_p_files = OutputMultiPath(File(exists=True), desc="corrected 1 - p of F tests")
    record = File(exists=True, desc="record of the run, in JSON")


_PATTERNS = {
    "tstat_files": "_tstat*",
    "fstat_files": "_fstat*",
    "t_p_files": "_*_p_tstat*",
    "f_p_files": "_*_p_fstat*",
    "t_corrected_p_files": "_*_corrp_tstat*",
    "f_corrected_p_files": "_*_corrp_fstat*",
}


class Randomise(CommandLine):
    """Run ``gpuvox randomise`` in a nipype workflow.

    Inputs that nipype's ``fsl.Randomise`` has bear its names. `t_p_files` and the like list the files of all statistics
    that were asked for.

    Examples
    --------
    >>> from gpuvox.interfaces.nipype import Randomise
    >>> node = Randomise(base_name="group", tfce=True, num_perm=5000)
    >>> node.inputs.c_thresh = 2.345
    """

    _cmd = "gpuvox-randomise"
    input_spec = _RandomiseInputSpec
    output_spec = _RandomiseOutputSpec

    def _list_outputs(self) -> dict[str, Any]:
        outputs: dict[str, Any] = self.output_spec().get()
        root = os.path.abspath(self.inputs.base_name)
        for name, pattern in _PATTERNS.items():
            outputs[name] = [path for path in sorted(glob(escape(root) + pattern)) if not path.endswith(".json")]
        outputs["record"] = f"{root}_randomise.json"
        return outputs
