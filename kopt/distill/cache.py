"""What a teacher says, computed once: an epoch of training then costs what the student costs."""

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import ConfigError, DataError, InputError, NonFiniteError, nearest
from kopt.core.records.artifacts import TensorInfo
from kopt.core.records.changes.distillation import CachedTensor, CacheManifest
from kopt.core.settings import choice, whole
from kopt.data import from_arrays
from kopt.distill.cache_files import KEYS, Shards, keys_of
from kopt.distill.forms import declared
from kopt.distill.joined import joined
from kopt.distill.predictions import PredictionsTeacher
from kopt.distill.projection import Shape
from kopt.distill.teachers import Answer, Teacher, hash_of, require_finite_answer, teacher_of
from kopt.train.soft_targets import logits_of

_DTYPES = ("float16", "float32")
_BATCH, _SHARD = 32, 8192


def cache_teacher(
    teacher: Any,
    data: Any,
    directory: str | os.PathLike[str],
    *,
    features: Sequence[str] = (),
    dtype: str = "float16",
    top_k: int | None = None,
    epochs: int = 1,
    shard_examples: int = _SHARD,
) -> "TeacherCache":
    """Compute what a teacher gives for every example, and keep it on disk.

    Use it where the teacher is large or runs outside TensorFlow. Examples are known by their bytes, so that they may
    come in any order and batches, and what augmentation makes of one is another example each time. Where augmentation
    is drawn from a seed, as `kopt.data` does, `epochs` caches what it makes in each of them; a data set that is made
    again with the same seed, and after the same `tf.random.set_seed`, finds them there if one iterator goes through
    all, as in `fit(cache.join(train.repeat()), steps_per_epoch=len(train))`: otherwise Keras begins two epochs for each
    that it trains. A run that was killed goes on where it stopped, and further data adds to a cache.

    Args:
        teacher: as `DistillationModel` takes it.
        data: batches `x`, `(x, y)` or `(x, y, sample_weight)`, as they will be joined; or arrays: of inputs, one, a
            list or a dict, or a tuple `(x, y)` or `(x, y, sample_weight)`.
        directory: for the files.
        features: paths of layers of the teacher whose tensors are kept, too.
        dtype: of what is kept: `"float16"` or `"float32"`.
        top_k: keep the largest probabilities only, with the mass of the others, which is then spread evenly; for
            classes. `None` keeps all.
        epochs: of the training, for data that differ from epoch to epoch in a way that a seed decides.
        shard_examples: examples in a file.

    Returns:
        The cache, to be a teacher: `DistillationModel(student, cache)`, and to be joined to data.

    Raises:
        ConfigError: an impossible setting, or a directory with a cache of another teacher, precision or inputs.
        DataError: data without a batch.
        NonFiniteError: the teacher gives NaN or infinity, or numbers that float16 cannot hold.
        OutputError: the directory cannot be written.

    Example:
        >>> train = kopt.data.from_arrays(x_train, y_train, batch_size=64, shuffle=True, seed=0)
        >>> cache = kopt.distill.cache_teacher(model, train, "cache", top_k=3)
        >>> cache.manifest.outputs[0].top_k
        3
        >>> student, _ = kopt.distill.smaller_student(model, width=0.5)
        >>> teaching = kopt.DistillationModel(student, cache)
        >>> teaching.compile("adam", "sparse_categorical_crossentropy")
        >>> history = teaching.fit(cache.join(train), epochs=2, shuffle=False, verbose=0)
    """
    choice("dtype", dtype, _DTYPES)
    whole("shard_examples", shard_examples)
    whole("epochs", epochs)
    source = teacher_of(teacher)
    if isinstance(source, TeacherCache):
        raise InputError(f"{source.name} is a cache already. Pass the teacher that it was made of.")
    batches = _batched(data, len(source.inputs))
    shapes = source.tap(list(features))
    manifest = CacheManifest(
        source.name,
        hash_of(source),
        dtype,
        _inputs(batches),
        tuple(_stored_output(info, form, top_k) for info, (form, _) in zip(source.outputs, source.forms, strict=True)),
        tuple(CachedTensor(name, shapes[name][1:]) for name in features),
    )
    path = Path(directory).absolute()
    _Filling(source, Shards.begin(path, manifest), shard_examples).take(batches, epochs)
    return TeacherCache(path)


def cache_predictions(
    x: Any,
    predictions: Any,
    directory: str | os.PathLike[str],
    *,
    form: str | Sequence[str],
    dtype: str = "float16",
) -> "TeacherCache":
    """Make a cache of predictions that are there already, so that a file of them can teach.

    Args:
        x: inputs as they will be in batches: an array, or a dict or list of them.
        predictions: for the same examples in the same order: an array, a dict of them by output name, or the path of an
            `.npy` or `.npz` file.
        directory: for the files.
        form: what they are: `"logits"`, `"probabilities"`, `"sigmoids"` or `"values"`, one or a list by output.
        dtype: of what is kept: `"float16"` or `"float32"`.

    Raises:
        ConfigError: an impossible setting, or a directory with a cache of something else.
        DataError: other numbers of examples.
        NonFiniteError: NaN or infinity, or numbers that float16 cannot hold.
        LoadError: a file that is no array.

    Example:
        >>> predictions = model.predict(x_train, verbose=0)
        >>> cache = kopt.distill.cache_predictions(x_train, predictions, "cache", form="probabilities")
        >>> train = cache.join(kopt.data.from_arrays(x_train, y_train, batch_size=32))
        >>> student, _ = kopt.distill.smaller_student(model, width=0.5)
        >>> teaching = kopt.DistillationModel(student, cache)
        >>> teaching.compile("adam", "sparse_categorical_crossentropy")
        >>> sorted(teaching.fit(train, shuffle=False, verbose=0).history)
        ['hard_loss', 'loss', 'soft_loss']
    """
    choice("dtype", dtype, _DTYPES)
    source = PredictionsTeacher(predictions)
    forms = declared("form", form, len(source.outputs)) or []
    batches = from_arrays(x, source.arrays, batch_size=_BATCH)
    outputs = tuple(_stored_output(info, one, None) for info, one in zip(source.outputs, forms, strict=True))
    manifest = CacheManifest(source.name, source.digest, dtype, _inputs(batches), outputs, ())
    path = Path(directory).absolute()
    _Filling(source, Shards.begin(path, manifest), _SHARD).take(batches, epochs=1)
    return TeacherCache(path)


class TeacherCache(Teacher):
    """What `cache_teacher` has kept, as a teacher; `TeacherCache(directory)` opens it again.

    Attributes:
        manifest: what it was made of.

    Example:
        >>> cache = kopt.distill.cache_teacher(model, x_train, "cache")
        >>> again = kopt.distill.TeacherCache("cache")
        >>> again.manifest.outputs[0].shape, again.manifest.dtype
        ((10,), 'float16')
    """

    def __init__(self, directory: str | os.PathLike[str], teacher: Any = None):
        """Open it.

        Args:
            directory: that `cache_teacher` was given.
            teacher: if given, the cache must have been made of it.

        Raises:
            LoadError: there is no cache.
            ConfigError: it was made of another teacher.
        """
        self._shards = Shards.open(Path(directory).absolute())
        self.manifest, self.given = self._shards.manifest, os.fspath(directory)
        self.name, self.inputs = f"cache of {self.manifest.teacher}", ()
        self.outputs = tuple(TensorInfo(one.name, (None, *one.shape), "float32") for one in self.manifest.outputs)
        if teacher is not None and hash_of(teacher_of(teacher)) != self.manifest.teacher_hash:
            raise ConfigError(
                f"The cache {directory} was made of another teacher than {teacher_of(teacher).name!r}, or of other "
                f"weights of it. Make one with `kopt.distill.cache_teacher`."
            )

    @property
    def forms(self) -> list[tuple[str, str]]:
        """See `Teacher.forms`; probabilities are kept as logits."""
        return [("logits" if one.form == "probabilities" else one.form, "as cached") for one in self.manifest.outputs]

    @functools.cached_property
    def examples(self) -> int:
        """How many examples are there."""
        return len(self._arrays[KEYS])

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return self._shards.arrays()

    def tap(self, names: Sequence[str]) -> dict[str, Shape]:
        """See `Teacher.tap`."""
        kept = {one.name: (None, *one.shape) for one in self.manifest.features}
        for name in names:
            if name not in kept:
                raise ConfigError(
                    f"The {self.name} has no features {name!r}.{nearest(name, kept)} It has: "
                    f"{', '.join(kept) or 'none'}. Make one with `cache_teacher(..., features=[{name!r}])`."
                )
        return {name: kept[name] for name in names}

    def answer(self, x: Any, stored: Mapping[str, Any] | None) -> Answer:
        """Return what was joined to the batch."""
        if stored is None:
            raise ConfigError(
                f"The teacher is a {self.name}, and this batch has nothing of it. Train on `cache.join(dataset)`."
            )
        outputs = [stored[f"output_{index}"] for index in range(len(self.outputs))]
        found = {one.name: stored[f"feature_{index}"] for index, one in enumerate(self.manifest.features)}
        return Answer(outputs, found)

    def join(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the batches with what the teacher gives for their examples, for `fit` of a `DistillationModel`.

        The cache is held in memory. An example that it does not have ends the training with an error that says so.

        Args:
            dataset: of batches `x`, `(x, y)` or `(x, y, sample_weight)`, in any order, before or after `repeat`.

        Raises:
            DataError: inputs of other shapes or types than those that the cache was made of.
        """
        _require_inputs(self.manifest, _inputs(dataset))
        held = {name: tf.constant(values) for name, values in self._arrays.items()}
        keys, count = held.pop(KEYS), self.examples

        def with_teacher(*batch: Any) -> Any:
            # As Keras does, a structure that is no tuple is all inputs.
            x, wanted = batch[0], keys_of(batch[0])
            rows = tf.minimum(tf.searchsorted(keys, wanted), count - 1)
            found = tf.reduce_all(tf.equal(tf.gather(keys, rows), wanted))
            check = tf.debugging.Assert(found, [_MISSING], name="cache_of_teacher")
            with tf.control_dependencies([] if check is None else [check]):
                rows = tf.identity(rows)
            stored = self._restored({name: tf.gather(values, rows) for name, values in held.items()})
            return (joined(x, stored), *batch[1:])

        return dataset.map(with_teacher, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _restored(self, arrays: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return outputs in float32 and features, by position."""
        restored = {}
        for index, one in enumerate(self.manifest.outputs):
            name = f"output_{index}"
            values = tf.cast(arrays[name], tf.float32)
            if one.top_k is not None:
                rest = tf.cast(arrays[f"{name}_rest"], tf.float32)
                values = _spread(values, arrays[f"{name}_indices"], rest, one.shape[-1] or 0)
            restored[name] = tf.sigmoid(values) if one.form == "sigmoids" else values
        for index in range(len(self.manifest.features)):
            restored[f"feature_{index}"] = arrays[f"feature_{index}"]
        return restored


class _Filling:
    """Runs the teacher on what is not there yet, and writes full files."""

    def __init__(self, teacher: Teacher, shards: Shards, size: int):
        self._teacher, self._shards, self._size = teacher, shards, size
        self._manifest, self._known = shards.manifest, shards.keys()
        self._pending: list[dict[str, np.ndarray]] = []
        self._shape: list[tuple[int, ...]] = []
        self._answer = tf.function(lambda x: tuple(teacher.answer(x, None)), reduce_retracing=True, autograph=False)

    def take(self, batches: tf.data.Dataset, epochs: int) -> None:
        seen = False
        for batch in itertools.chain.from_iterable(itertools.repeat(batches, epochs)):
            seen = True
            x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
            keys = keys_of(x).numpy()
            new = [row for row, key in enumerate(keys) if key not in self._known and key not in keys[:row]]
            if new:
                self._require_one_shape(x)
                self._known.update(int(keys[row]) for row in new)
                self._pending.append(
                    {KEYS: keys[new], **{name: one[new] for name, one in self._computed(x, y).items()}}
                )
                self._write(self._size)
        if not seen:
            raise DataError("The data has no batches. Pass at least one example.")
        self._write(1)

    def _require_one_shape(self, x: Any) -> None:
        """Refuse examples of several shapes, e.g. of other lengths, before the teacher works on them."""
        shape = [tuple(leaf.shape[1:]) for leaf in tf.nest.flatten(x)]
        self._shape = self._shape or shape
        if shape != self._shape:
            raise DataError(
                f"A cache holds examples of one shape. Received: {self._shape} and {shape}. Pad all to one length, "
                f"here and in training: padding is a part of an example."
            )

    def _write(self, least: int) -> None:
        if self._pending and sum(len(part[KEYS]) for part in self._pending) >= least:
            self._shards.add(
                {name: np.concatenate([part[name] for part in self._pending]) for name in self._pending[0]}
            )
            self._pending.clear()

    def _computed(self, x: Any, y: Any) -> dict[str, np.ndarray]:
        # Predictions that are there already come in the place of labels.
        outputs, features = (y, {}) if isinstance(self._teacher, PredictionsTeacher) else self._answer(x)
        arrays: dict[str, np.ndarray] = {}
        for index, (one, values) in enumerate(zip(self._manifest.outputs, outputs, strict=True)):
            require_finite_answer(self._teacher.name, [one.name], [tf.cast(values, tf.float32).numpy()])
            logits = logits_of(values, one.form)
            if one.top_k is not None:
                logits, indices, rest = _largest(logits, one.top_k)
                arrays[f"output_{index}_indices"] = indices.numpy()
                arrays[f"output_{index}_rest"] = rest.numpy()
            arrays[f"output_{index}"] = logits.numpy()
        for index, one in enumerate(self._manifest.features):
            values = tf.cast(features[one.name], tf.float32).numpy()
            require_finite_answer(self._teacher.name, [one.name], [values])
            arrays[f"feature_{index}"] = values
        return {name: self._narrowed(values) for name, values in arrays.items()}

    def _narrowed(self, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind != "f" or self._manifest.dtype == "float32":
            return values
        if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
            raise NonFiniteError(
                f"The teacher {self._teacher.name} gives {np.abs(values).max():g}, and float16 ends at 65504. Keep it "
                f"with `dtype='float32'`."
            )
        return values.astype(np.float16)


_MISSING = (
    "The cache of the teacher has nothing for an example of this batch: it was made of another data set, before or "
    "after augmentation, of inputs in another precision or order of preprocessing, or of shuffled batches that drop a "
    "remainder, which is another one every epoch. Run `kopt.distill.cache_teacher` on all examples of this data set, "
    "with augmentation off; or with `epochs` of it, augmented from a seed, and train for as many on the data set made "
    "again from that seed: `fit(cache.join(train.repeat()), steps_per_epoch=len(train))`."
)


def _largest(logits: Any, count: int) -> tuple[Any, Any, Any]:
    """Return the largest log-probabilities, their places, and the logarithm of the mass of all others."""
    logs = tf.nn.log_softmax(logits)
    values, indices = tf.math.top_k(logs, count)
    rest = 1.0 - tf.reduce_sum(tf.exp(values), axis=-1, keepdims=True)
    return values, indices, tf.math.log(tf.maximum(rest, 1e-7))


def _spread(values: Any, indices: Any, rest: Any, classes: int) -> Any:
    """Return log-probabilities of all classes, those that were not kept being equal."""
    kept = values.shape[-1]
    others = rest - np.log(float(classes - kept), dtype=np.float32)
    flat_values, flat_indices = (tf.reshape(one, (-1, kept)) for one in (values, indices))
    base = tf.repeat(tf.reshape(others, (-1, 1)), classes, axis=1)
    rows = tf.repeat(tf.range(tf.shape(flat_indices)[0])[:, None], kept, axis=1)
    filled = tf.tensor_scatter_nd_update(base, tf.stack([rows, flat_indices], axis=-1), flat_values)
    return tf.reshape(filled, tf.concat([tf.shape(values)[:-1], [classes]], axis=0))


def _stored_output(info: TensorInfo, form: str, top_k: int | None) -> CachedTensor:
    if top_k is not None:
        whole("top_k", top_k)
        classes = info.shape[-1]
        if form not in ("logits", "probabilities") or classes is None or top_k >= classes:
            raise ConfigError(
                f"`top_k` keeps fewer than all of several classes. Output {info.name!r} gives {form} of shape "
                f"{info.shape}. Received: top_k={top_k}."
            )
    return CachedTensor(info.name, info.shape[1:], form, top_k)


def _batched(data: Any, inputs: int) -> tf.data.Dataset:
    """Return data as batches; a tuple is `(x, y)`, unless it has an array for each of several inputs."""
    if isinstance(data, tf.data.Dataset):
        return data
    is_labelled = isinstance(data, tuple) and len(data) in (2, 3)
    if is_labelled and (inputs < 2 or isinstance(data[0], (list, tuple, dict))):
        return from_arrays(*data[:2], batch_size=_BATCH)
    return from_arrays(data, batch_size=_BATCH)


def _inputs(dataset: tf.data.Dataset) -> tuple[TensorInfo, ...]:
    spec = dataset.element_spec
    specs = tf.nest.flatten(spec[0] if isinstance(spec, tuple) else spec)
    if any(one.shape.rank is None for one in specs):
        raise DataError("The data set does not say how many axes its inputs have. Set them, e.g. by `tf.ensure_shape`.")
    return tuple(
        TensorInfo(f"input_{index}", (None, *one.shape[1:]), one.dtype.name) for index, one in enumerate(specs)
    )


def _require_inputs(manifest: CacheManifest, found: tuple[TensorInfo, ...]) -> None:
    if found != manifest.inputs:
        described = [", ".join(f"{one.dtype} {one.shape}" for one in group) for group in (found, manifest.inputs)]
        raise DataError(
            f"The cache of {manifest.teacher} was made of batches of {described[1]}, and these are {described[0]}. "
            f"Join the data set that was cached, batched and in the same types."
        )
