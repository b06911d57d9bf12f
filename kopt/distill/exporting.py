"""One call from a trained student to the file that ships."""

import os
from typing import Any

from kopt import export
from kopt.core.records.artifacts import Artifact


class Exporting:
    """What a model with a `student` exports of it."""

    student: Any

    def export_tflite(self, path: str | os.PathLike[str], **settings: Any) -> Artifact:
        """Write the student as a `.tflite` file; see `kopt.export.tflite`."""
        return export.tflite(self.student, path, **settings)

    def export_saved_model(self, path: str | os.PathLike[str], **settings: Any) -> Artifact:
        """Write the student as a SavedModel; see `kopt.export.saved_model`."""
        return export.saved_model(self.student, path, **settings)

    def export_onnx(self, path: str | os.PathLike[str], **settings: Any) -> Artifact:
        """Write the student as an ONNX file; see `kopt.export.onnx`."""
        return export.onnx(self.student, path, **settings)

    def export_tensorrt(self, path: str | os.PathLike[str], **settings: Any) -> Artifact:
        """Write the student as a TensorRT engine; see `kopt.export.tensorrt`."""
        return export.tensorrt(self.student, path, **settings)
