"""A model becomes a file that another runtime loads, verified against the model before it is called done."""

from typing import TYPE_CHECKING

from kopt.core.lazy_names import on_first_use

if TYPE_CHECKING:
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

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "copies": ("backup", "check_backup", "restore"),
        "examination": ("verify",),
        "manifest": ("read_manifest",),
        "source": ("open_model", "traced"),
        "to_onnx": ("onnx",),
        "to_saved_model": ("saved_model",),
        "to_tensorrt": ("tensorrt",),
        "to_tflite": ("tflite",),
        "trained": ("has_ranges",),
    },
)
