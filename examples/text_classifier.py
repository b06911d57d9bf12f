"""A transformer for texts: attention heads that are not needed go, the rest computes in integers."""

import importlib
import inspect
import pkgutil
import re

import keras
import numpy as np
import outcome
from keras import layers as L

import kopt

LOSS = "sparse_categorical_crossentropy"
LIBRARIES = ("keras", "numpy", "scipy", "sklearn", "matplotlib", "tensorflow")
WORDS, LENGTH = 4_000, 48


def docstrings(library: str, most: int) -> list[str]:
    """Return the docstrings of a library's public functions and classes, without its own name."""
    found: dict[str, None] = {}
    package = importlib.import_module(library)
    names = [
        library,
        *(f"{library}.{one.name}" for one in pkgutil.iter_modules(package.__path__) if one.name[0] != "_"),
    ]
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception:  # noqa: BLE001 - a module for another system or with a missing extra has no say here
            continue
        for _, value in sorted(inspect.getmembers(module, lambda one: inspect.isclass(one) or inspect.isroutine(one))):
            if str(getattr(value, "__module__", "")).startswith(library):
                found |= dict.fromkeys(paragraphs(inspect.getdoc(value) or "", library))
    return list(found)[:most]


def paragraphs(text: str, library: str) -> list[str]:
    """Return the paragraphs of at least ten words."""
    plain = re.sub(rf"\b({library}|np|tf|plt|sp)\b", " ", text.lower())
    return [part for part in re.split(r"\n\s*\n", plain) if len(part.split()) >= 10]


def texts(most: int) -> tuple[list[str], np.ndarray]:
    """Return paragraphs and the number of the library that each is from, shuffled."""
    by_library = [docstrings(library, most) for library in LIBRARIES]
    pairs = [(text, number) for number, found in enumerate(by_library) for text in found]
    order = np.random.default_rng(0).permutation(len(pairs))
    return [pairs[i][0] for i in order], np.array([pairs[i][1] for i in order])


def network(heads: int = 8, width: int = 64) -> keras.Model:
    """Return a transformer encoder of two blocks."""
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    x = L.Embedding(WORDS, width, name="words")(tokens)
    x = L.Conv1D(width, 3, padding="same", name="order")(x)  # attention alone does not see the order of words
    for number in range(2):
        attended = L.MultiHeadAttention(heads, width // heads, dropout=0.1, name=f"attention_{number}")(x, x)
        x = L.LayerNormalization(name=f"attended_{number}")(L.Add()([x, attended]))
        inner = L.Dense(width, name=f"out_{number}")(L.Dense(2 * width, activation="relu", name=f"in_{number}")(x))
        x = L.LayerNormalization(name=f"block_{number}")(L.Add()([x, L.Dropout(0.1)(inner)]))
    x = L.Dropout(0.2)(L.GlobalAveragePooling1D(name="mean")(x))
    return keras.Model(tokens, L.Dense(len(LIBRARIES), activation="softmax", name="library")(x), name="encoder")


def main() -> None:
    """Train, take heads out, recover, quantize and measure."""
    options = outcome.arguments(__doc__)
    most, epochs = (100, 1) if options.quick else (3_000, 8)
    words, labels = texts(most)
    count = len(labels)
    held_out = count // 6
    split = L.TextVectorization(WORDS, output_sequence_length=LENGTH)
    split.adapt(words[2 * held_out :])
    tokens = np.asarray(split(words), np.int32)
    parts = (slice(2 * held_out, None), slice(held_out, 2 * held_out), slice(held_out))
    train, validation, test = ((tokens[part], labels[part]) for part in parts)

    keras.utils.set_random_seed(0)
    original = network()
    original.compile(keras.optimizers.Adam(1e-3), LOSS, metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)
    original.fit(*train, batch_size=64, epochs=epochs, validation_data=validation, callbacks=[stop], verbose=0)

    fewer, report = kopt.prune.heads(original, keep=0.5, criterion="taylor", data=train, scope="global")
    print(report.table())
    narrower, report = kopt.prune.channels(
        fewer, keep=0.5, criterion="taylor", data=train, loss=LOSS, protect=["attention*", "words", "order"]
    )
    print(report.table())
    recovered, _ = kopt.prune.recover(
        narrower, train, validation, teacher=original, epochs=max(1, epochs // 2), loss=LOSS, learning_rate=5e-4
    )
    found = outcome.shipped(
        {
            "the encoder, float32": (original, "float32"),
            "the encoder, int8": (original, "int8"),
            "half of the heads and of the inner units": (narrower, "float32"),
            "the same, recovered": (recovered, "float32"),
            "the same, recovered, int8": (recovered, "int8"),
        },
        test,
        calibration=train[0][:256],
    )
    outcome.publish(
        "text_classifier",
        "A text classifier",
        [
            (
                f"Paragraphs of the docstrings of {', '.join(LIBRARIES[:-1])} and {LIBRARIES[-1]} as they are "
                f"installed; which library are they from? {len(train[1]):,} to train with, accuracy on "
                f"{len(test[1]):,} others, of the file in LiteRT with one thread. Half of the attention heads and "
                "half of the inner units of the feed-forward parts go, those with the least influence on the loss.",
                outcome.against_first(found),
            )
        ],
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
