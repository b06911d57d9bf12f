"""Real data in: packaged sets, files and arrays, checked against a model and sampled for calibration."""

from kopt.data.arrays import from_arrays
from kopt.data.collecting import collect
from kopt.data.files import load_folder, load_npz, open_data
from kopt.data.packaged import load
from kopt.data.sampling import calibration
from kopt.data.splits import DataSplits, Split
from kopt.data.validation import check

__all__ = [
    "DataSplits",
    "Split",
    "calibration",
    "check",
    "collect",
    "from_arrays",
    "load",
    "load_folder",
    "load_npz",
    "open_data",
]
