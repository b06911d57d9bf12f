"""Real data in: packaged sets, files and arrays, checked against a model and sampled for calibration."""

from kopt.data.arrays import from_arrays
from kopt.data.augmentation import Augmentation
from kopt.data.caching import cache_of, plan_cache
from kopt.data.collecting import collect
from kopt.data.damage import skipped_files
from kopt.data.diagnosis import diagnose
from kopt.data.files import load_folder, load_npz, open_data, open_examples
from kopt.data.image_decoding import decode_image
from kopt.data.image_folders import image_classes
from kopt.data.images import from_images
from kopt.data.local_service import local_service
from kopt.data.packaged import load
from kopt.data.sampling import calibration
from kopt.data.service import distribute
from kopt.data.splits import DataSplits, Split
from kopt.data.tfrecord_files import check_tfrecords
from kopt.data.tfrecord_writing import write_tfrecords
from kopt.data.tfrecords import from_tfrecords
from kopt.data.validation import check

__all__ = [
    "Augmentation",
    "DataSplits",
    "Split",
    "cache_of",
    "calibration",
    "check",
    "check_tfrecords",
    "collect",
    "decode_image",
    "diagnose",
    "distribute",
    "from_arrays",
    "from_images",
    "from_tfrecords",
    "image_classes",
    "load",
    "load_folder",
    "load_npz",
    "local_service",
    "open_data",
    "open_examples",
    "plan_cache",
    "skipped_files",
    "write_tfrecords",
]
