"""An image classifier from a trained network to a small, fast file: separable convolutions, a teacher, integers."""

import keras
import outcome
from keras import layers as L

import kopt

LOSS = "sparse_categorical_crossentropy"


def network(width: int = 24) -> keras.Model:
    """Return a residual network with plain convolutions, as they are trained everywhere."""

    def block(x, filters, stride):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)))
        y = L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", use_bias=False)(y))
        x = L.BatchNormalization()(L.Conv2D(filters, 1, stride, use_bias=False)(x)) if stride > 1 else x
        return L.ReLU()(L.Add()([x, y]))

    inputs = keras.Input((28, 28, 1), name="image")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same", use_bias=False)(inputs)))
    for filters, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        x = block(x, filters, stride)
    return keras.Model(inputs, L.Dense(10, activation="softmax")(L.GlobalAveragePooling2D()(x)), name="residual")


def main() -> None:
    """Train, restructure, teach, quantize and measure."""
    options = outcome.arguments(__doc__)
    examples, epochs = (1_000, 1) if options.quick else (30_000, 8)
    data = kopt.data.load("fashion_mnist")
    train = data.train.x[:examples], data.train.y[:examples]
    validation = data.validation.x[:examples], data.validation.y[:examples]
    test = data.test.x[:examples], data.test.y[:examples]

    keras.utils.set_random_seed(0)
    original = network()
    original.compile(keras.optimizers.Adam(2e-3), LOSS, metrics=["accuracy"])
    batches = kopt.data.from_arrays(*train, batch_size=64, shuffle=True, seed=0)
    kopt.train.accelerate(original).fit(batches, epochs=epochs, verbose=0)

    separable, report = kopt.restructure.depthwise_separable(original)
    print(report.table())
    taught = kopt.graph.copy_model(separable)
    kopt.distill.teach(taught, original, train, validation, epochs=epochs, loss=LOSS, temperature=4.0)
    rounded, _ = kopt.quantize.aware(taught, calibration=train[0][:256])
    kopt.distill.teach(
        rounded, original, train, validation, epochs=max(1, epochs // 4), loss=LOSS, temperature=4.0, learning_rate=2e-4
    )
    found = outcome.shipped(
        {
            "the network, float32": (original, "float32"),
            "the network, int8": (original, "int8"),
            "separable, as fitted to the kernels": (separable, "float32"),
            "separable, taught": (taught, "float32"),
            "separable, taught, int8": (taught, "int8"),
            "separable, taught, taught again with rounding, int8": (rounded, "int8"),
        },
        test,
        calibration=train[0][:256],
    )
    outcome.publish(
        "image_classifier",
        "An image classifier, end to end",
        [
            (
                f"Fashion-MNIST, {examples:,} images to train with, {epochs} epochs; accuracy on {len(test[1]):,} "
                "test images, of the file in LiteRT with one thread. Convolutions of 3x3 become separable ones, "
                "fitted to the kernels they replace; the network that was replaced teaches what comes out.",
                outcome.against_first(found),
            )
        ],
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
