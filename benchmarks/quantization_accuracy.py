"""Claims: integer files keep their accuracy, also where the converter's own lose it, or weights have 4 bits."""

import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_quantizer import quantizer, recipe
from claims import Claim, publish
from image_sets import ImageSet, image_sets
from resumable import Table, trained_once
from training_networks import narrow_mobile, resnet8
from trainings import points, trained

import kopt
from kopt.core.files import gzip_bytes
from kopt.graph import to_tf_keras
from kopt.graph.tfmot import load_tfmot

SEEDS = 3
CALIBRATION = 100
NETWORKS: dict[str, Callable[..., Any]] = {"ResNet8": resnet8, "spread depthwise net": narrow_mobile}
FLOAT, CONVERTER, AFTER, AWARE = "float", "int8, converter", "int8, after training", "int8, trained with rounding"
BOTH = "int8, after training, then trained with rounding"
TFMOT, EDGE = "int8, trained with tfmot's rounding", "int8, ai-edge-quantizer"
ZEROS, BOTH_KEPT = "int8, 50 % zeros", "int8, 50 % zeros, 16 values"
FOUR_AFTER, FOUR_AWARE = "4-bit weights, after training", "4-bit weights, trained with rounding"


def dense(network: str, images: ImageSet, seed: int) -> Any:
    """Return the network in float, trained in an earlier run or now; channels of the depthwise one are spread."""

    def make() -> Any:
        keras.utils.set_random_seed(seed)
        return trained(NETWORKS[network](images.shape), images, images.epochs[0], 4e-3, seed)

    name = NETWORKS[network].__name__
    model = trained_once(f"{name}_{images.name}_{seed}", make)
    if NETWORKS[network] is narrow_mobile:
        spread_channels(model, np.random.default_rng(seed))
    return model


def spread_channels(model: Any, generator: np.random.Generator) -> None:
    """Multiply channels of normalizations by numbers from 1 / 32 to 32 and divide the kernels behind by them."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")][1:]
    for norm, behind in zip(norms, kernels, strict=True):
        by = 10 ** generator.uniform(-1.5, 1.5, norm.gamma.shape[0]).astype("float32")
        norm.gamma.assign(norm.gamma * by)
        norm.beta.assign(norm.beta * by)
        behind.kernel.assign(behind.kernel / by[:, None])


def known(images: ImageSet) -> Any:
    """Return the examples that ranges are found with."""
    return images.train[0][:CALIBRATION]


def learned(model: Any, images: ImageSet, seed: int, **settings: Any) -> Any:
    """Return a copy with rounding after fine-tuning."""
    copy, _ = kopt.quantize.aware(model, calibration=known(images), freeze_batch_norm=2 * images.steps, **settings)
    return fine_tuned(copy, images, seed)


def fine_tuned(copy: Any, images: ImageSet, seed: int) -> Any:
    """Train a copy with rounding, and return it."""
    return trained(copy, images, images.epochs[1] // 2, 5e-4, seed)


def taught(model: Any, images: ImageSet, seed: int) -> Any:
    """Return the same, which learned from the network in float, too."""
    copy, _ = kopt.quantize.aware(model, calibration=known(images), freeze_batch_norm=2 * images.steps)
    distilled = kopt.DistillationModel(copy, model, temperature=4.0, alpha=0.7)
    return trained(distilled, images, images.epochs[1] // 2, 5e-4, seed).student


def sparse(model: Any, images: ImageSet, seed: int, **settings: Any) -> Any:
    """Return the network with half of its weights zero, fine-tuned."""
    masked, _ = kopt.prune.magnitude(model, 0.5, policy="keep_first_last", **settings)
    library = tf_keras if "backend" in settings else keras
    return kopt.prune.finalize(trained(masked, images, images.epochs[1] // 2, 2e-3, seed, library))[0]


def shared(model: Any, images: ImageSet, seed: int, **settings: Any) -> Any:
    """Return the network with 16 values a kernel, fine-tuned."""
    clustered, _ = kopt.cluster.weights(model, clusters=16, **settings)
    library = tf_keras if "backend" in settings else keras
    return kopt.cluster.finalize(trained(clustered, images, images.epochs[1] // 2, 1e-3, seed, library))[0]


def by_tfmot(model: Any, images: ImageSet, seed: int, preserving: str = "") -> bytes:
    """Return the file of the tf_keras twin that was trained with tfmot's rounding; `preserving` names a scheme."""
    tfmot = load_tfmot()
    quantization = tfmot.quantization.keras
    twin = quantization.quantize_annotate_model(to_tf_keras(model))
    kinds = {
        "": quantization.default_8bit.Default8BitQuantizeScheme,
        "zeros": tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme,
        "both": lambda: tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True),
    }
    twin = quantization.quantize_apply(twin, kinds[preserving]())
    converter = tf.lite.TFLiteConverter.from_keras_model(
        trained(twin, images, images.epochs[1] // 2, 5e-4, seed, tf_keras)
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content: bytes = converter.convert()
    return content


def by_converter(model: Any, images: ImageSet) -> bytes:
    """Return the file of TensorFlow's converter alone: `kopt.export` refuses one that has lost its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        saved = kopt.export.saved_model(model, Path(folder) / "1").path
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in known(images))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        content: bytes = converter.convert()
    return content


def by_edge_quantizer(model: Any, images: ImageSet) -> bytes:
    """Return the file of ai-edge-quantizer with its static recipe."""
    with tempfile.TemporaryDirectory() as folder:
        file = kopt.export.tflite(model, Path(folder) / "float.tflite").path
        name = kopt.measure.load(file).inputs[0].name
        made = quantizer.Quantizer(str(file), recipe.static_wi8_ai8())
        examples = [{name: image[None]} for image in known(images)]
        content: bytes = made.quantize(made.calibrate({"serving_default": examples})).quantized_model
    return bytes(content)


def four_bits(model: Any) -> dict[str, int]:
    """Return 4 bits for every layer that can have them."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return {layer.name: 4 for layer in model.layers if isinstance(layer, kinds)}


def ways(network: str, images: ImageSet, seed: int) -> dict[str, Callable[[Any], Any]]:
    """Return what makes each row of a float network: a model to export, or the content of a file."""
    start = dense(network, images, seed)
    rows: dict[str, Callable[[Any], Any]] = {
        FLOAT: lambda folder: kopt.export.tflite(start, folder),
        CONVERTER: lambda folder: by_converter(start, images),
        EDGE: lambda folder: by_edge_quantizer(start, images),
        AFTER: lambda folder: kopt.quantize.post_training(start, known(images))[0],
        AWARE: lambda folder: learned(start, images, seed),
        TFMOT: lambda folder: by_tfmot(start, images, seed),
        BOTH: lambda folder: fine_tuned(kopt.quantize.post_training(start, known(images))[0], images, seed),
        "16-bit activations, after training": lambda folder: kopt.quantize.post_training(
            start, known(images), scheme="int16x8"
        )[0],
    }
    if network != "ResNet8":
        return rows
    return rows | {
        FOUR_AFTER: lambda folder: kopt.quantize.aware(start, calibration=known(images), bits=four_bits(start))[0],
        FOUR_AWARE: lambda folder: learned(start, images, seed, bits=four_bits(start)),
        "int8, taught by float": lambda folder: taught(start, images, seed),
        ZEROS: lambda folder: learned(sparse(start, images, seed), images, seed),
        "int8, 2 of 4 weights": lambda folder: learned(
            sparse(start, images, seed, granularity="n:m", n_m=(2, 4)), images, seed
        ),
        "int8, 16 values": lambda folder: learned(shared(start, images, seed), images, seed),
        BOTH_KEPT: lambda folder: learned(shared(sparse(start, images, seed), images, seed), images, seed),
        f"{ZEROS}, tfmot": lambda folder: by_tfmot(sparse(start, images, seed, backend="tfmot"), images, seed, "zeros"),
        f"{BOTH_KEPT}, tfmot": lambda folder: by_tfmot(
            shared(sparse(start, images, seed, backend="tfmot"), images, seed, backend="tfmot"), images, seed, "both"
        ),
    }


def shipped(make: Callable[[Any], Any], images: ImageSet) -> tuple[float, float]:
    """Return the accuracy of the file in LiteRT, and its KiB after gzip."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        made = make(path)
        if isinstance(made, bytes):
            path.write_bytes(made)
        elif isinstance(made, keras.Model):
            kopt.export.tflite(made, path, scheme=made.quantization.scheme)
        return points(path, images), round(gzip_bytes(path) / 1024, 1)


def main() -> int:
    """Train, round and ship with several seeds."""
    table, sets = Table("quantization_accuracy"), image_sets()
    for seed in range(SEEDS):
        for images in sets:
            for network in NETWORKS:
                data = f"{images.name}, {network}"
                for way, make in ways(network, images, seed).items():
                    table.several((data, f"{data}, gzip KiB"), way, seed, functools.partial(shipped, make, images))
    table.show()
    claims = []
    for images in sets:
        easy, hard = (f"{images.name}, {network}" for network in NETWORKS)
        claims += [
            Claim(f"{hard}: {AFTER}, loss", table.mean(hard, FLOAT) - table.mean(hard, AFTER), 1.0, unit="points"),
            Claim(
                f"{hard}: {AFTER}, over {CONVERTER}",
                table.mean(hard, AFTER) - table.mean(hard, CONVERTER), 10.0, above=True, unit="points",
            ),
            Claim(
                f"{easy}: {FOUR_AWARE}, over {FOUR_AFTER}",
                table.mean(easy, FOUR_AWARE) - table.mean(easy, FOUR_AFTER), 0.0, above=True, unit="points",
            ),
            *(
                Claim(
                    f"{easy}: {own}, behind tfmot",
                    table.mean(easy, theirs) - table.mean(easy, own),
                    statistics.stdev(table.values(easy, theirs)), unit="points",
                )
                for own, theirs in ((AWARE, TFMOT), (ZEROS, f"{ZEROS}, tfmot"), (BOTH_KEPT, f"{BOTH_KEPT}, tfmot"))
            ),
        ]  # fmt: skip
    return publish(
        "quantization_accuracy",
        f"ResNet8 and a depthwise net of channels spread 1,000 times, {SEEDS} seeds, accuracy in LiteRT, percent.",
        table.numbers(),
        claims,
    )


if __name__ == "__main__":
    raise SystemExit(main())
