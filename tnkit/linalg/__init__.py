"""Linear algebra on tensors: truncation, splits, sketches, least squares. It knows nothing of formats.

Tensors in, tensors out, on the device and in the dtype they came in. Energies (squared norms) are Python floats or
float64 tensors. Nothing is changed in place, nothing is drawn from a global generator.
"""

from tnkit.linalg.batched import batched_spectra, batched_split
from tnkit.linalg.block_sparse import BlockSparse, LeadingPart, leading_part, least_rank, require_room
from tnkit.linalg.coordinates import Groups, SparseMatrix, add_rows_, columns_of, group_rows
from tnkit.linalg.cut import Cut, Split
from tnkit.linalg.khatri_rao import khatri_rao
from tnkit.linalg.lstsq import orthonormal, solve_gram, sqrt_psd
from tnkit.linalg.maxvol import maxvol
from tnkit.linalg.products import apply_rows, energy, gram, project, residual_energy
from tnkit.linalg.rank_choice import choose_ranks
from tnkit.linalg.sketch import count_sketch
from tnkit.linalg.split import Spectrum, choose_driver, spectrum, split, split_flops
from tnkit.linalg.split_randomised import SketchedRange, oversampling, sketch_suffices, sketched_range
from tnkit.linalg.tall_qr import reduced_qr
from tnkit.linalg.truncation import rank_for_tail, tails

__all__ = [
    "BlockSparse",
    "Cut",
    "Groups",
    "LeadingPart",
    "SketchedRange",
    "SparseMatrix",
    "Spectrum",
    "Split",
    "add_rows_",
    "apply_rows",
    "batched_spectra",
    "batched_split",
    "choose_driver",
    "choose_ranks",
    "columns_of",
    "count_sketch",
    "energy",
    "gram",
    "group_rows",
    "khatri_rao",
    "leading_part",
    "least_rank",
    "maxvol",
    "orthonormal",
    "oversampling",
    "project",
    "rank_for_tail",
    "reduced_qr",
    "require_room",
    "residual_energy",
    "sketch_suffices",
    "sketched_range",
    "solve_gram",
    "spectrum",
    "split",
    "split_flops",
    "sqrt_psd",
    "tails",
]
