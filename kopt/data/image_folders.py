"""Folders of images, one folder a class: their names, their files, their labels."""

import os
from pathlib import Path

import numpy as np

from kopt.core.errors import DataError, nearest
from kopt.data.splits import Array

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def image_classes(directory: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the class names of an image folder in the order of their labels: the sorted names of its folders.

    Use it to name what a model trained on `from_images` or `load_folder` answers: label 0 is the first name.

    Args:
        directory: one folder of images a class; hidden folders do not count.

    Raises:
        DataError: not a folder, or fewer than two class folders.

    Example:
        >>> kopt.data.image_classes("images")
        ('seven', 'three')
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder. Pass a folder with one folder of images a class.")
    classes = sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if len(classes) < 2:
        raise DataError(
            f"{directory} has {len(classes)} class folder(s) ({', '.join(classes) or 'none'}); at least two are "
            f"needed, each with the images of one class."
        )
    return tuple(classes)


def files_by_class(directory: Path, classes: tuple[str, ...]) -> tuple[list[Path], Array]:
    """Return the image files of all class folders, sorted by class and name, and their int64 labels.

    Args:
        directory: one folder of images a class.
        classes: names whose positions are the labels; a folder that is not among them is an error.

    Raises:
        DataError: an unknown class folder, or a class folder without images.
    """
    strangers = [name for name in image_classes(directory) if name not in classes]
    if strangers:
        raise DataError(
            f"{directory} has the class {strangers[0]!r}, which train/ lacks.{nearest(strangers[0], classes)} "
            f"Classes in train/: {', '.join(classes)}."
        )
    files, labels = [], []
    for label, name in enumerate(classes):
        folder = directory / name
        found = sorted(
            file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."
        )
        if not found:
            raise DataError(
                f"{folder} holds no images. Put files there ({', '.join(IMAGE_SUFFIXES)}) or remove the folder."
            )
        files += found
        labels += [label] * len(found)
    return files, np.asarray(labels, np.int64)
