"""A model becomes a file that another runtime loads, verified against the model before it is called done."""

from kopt.export.copies import backup, check_backup, restore
from kopt.export.examination import verify
from kopt.export.manifest import read_manifest
from kopt.export.source import open_model, traced
from kopt.export.to_onnx import onnx
from kopt.export.to_saved_model import saved_model
from kopt.export.to_tensorrt import tensorrt
from kopt.export.to_tflite import tflite
from kopt.export.trained import has_ranges

__all__ = [
    "backup",
    "check_backup",
    "has_ranges",
    "onnx",
    "open_model",
    "read_manifest",
    "restore",
    "saved_model",
    "tensorrt",
    "tflite",
    "traced",
    "verify",
]
