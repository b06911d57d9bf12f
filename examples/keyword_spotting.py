"""Keyword spotting on a microcontroller: integers only, inside a budget of flash and of memory."""

import hashlib
import shutil
import subprocess
import tempfile
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import outcome
from keras import layers as L

import kopt

LOSS = "sparse_categorical_crossentropy"
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd")
VARIANTS = ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f4", "f5", "croak")
RATE, FRAME, STEP, MELS, FRAMES = 16_000, 640, 320, 32, 48
FLASH_BYTES, MEMORY_BYTES = 64_000, 48_000


def spoken(word: str, voice: str, variant: str, speed: int, pitch: int, folder: Path) -> np.ndarray:
    """Return one second of a spoken word, float32 in [-1, 1] at 16 kHz."""
    file = folder / f"{word}-{voice}-{variant}-{speed}-{pitch}.wav"
    voice = f"{voice}+{variant}"
    subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", file, word], check=True)
    with wave.open(str(file)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16) / 32768
        places = np.arange(0, len(samples) - 1, sound.getframerate() / RATE)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)[:RATE]


def features(sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the logarithmic mel spectrogram of a sound somewhere in a second of noise, of shape (48, 32, 1)."""
    second = random.normal(0, 10 ** random.uniform(-3.5, -1.8), RATE)
    start = random.integers(0, RATE - len(sound) + 1)
    second[start : start + len(sound)] += sound * random.uniform(0.3, 1.0)
    starts = STEP * np.arange(FRAMES)
    frames = np.stack([second[start : start + FRAME] for start in starts]) * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames)) ** 2
    return np.log(power @ mel_filters() + 1e-4)[..., None].astype(np.float32)


def mel_filters() -> np.ndarray:
    """Return triangles on the mel scale from 60 Hz to 7.6 kHz, of shape (bins, mels)."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, 7600))
    corners = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FRAME, 1 / RATE)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def recordings(voices: tuple[str, ...], speeds: tuple[int, ...], copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Return spectrograms of all keywords by these voices, each several times in other noise, and their numbers."""
    asked = [
        (number, word, voice, variant, speed, pitch)
        for number, word in enumerate(KEYWORDS)
        for voice in voices
        for variant in VARIANTS
        for speed in speeds
        for pitch in (30, 60)
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        sounds = list(pool.map(lambda one: spoken(*one[1:], Path(folder)), asked))
    seed = int.from_bytes(hashlib.sha256(repr((voices, speeds)).encode()).digest()[:4], "big")
    random = np.random.default_rng(seed)
    x = np.stack([features(sound, random) for sound in sounds for _ in range(copies)])
    y = np.repeat([one[0] for one in asked], copies)
    order = random.permutation(len(y))
    return x[order], y[order]


def network(width: int = 64) -> keras.Model:
    """Return the separable network of MLPerf Tiny's keyword spotting, for this spectrogram."""

    def normalized(x):
        return L.ReLU()(L.BatchNormalization()(x))

    inputs = keras.Input((FRAMES, MELS, 1), name="spectrogram")
    x = normalized(L.Conv2D(width, (10, 4), 2, padding="same", use_bias=False)(inputs))
    for _ in range(4):
        x = normalized(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = normalized(L.Conv2D(width, 1, use_bias=False)(x))
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(len(KEYWORDS), activation="softmax")(x), name="keywords")


def arena_bytes(model: keras.Model) -> int:
    """Return the bytes of integer activations that stand at once, the least that a tensor arena can do with."""
    return kopt.profile.model(model).peak_activation_bytes // 4


def main() -> None:
    """Train, look for the widest network inside the budgets, and ship it in integers."""
    options = outcome.arguments(__doc__)
    if shutil.which("espeak-ng") is None:
        raise SystemExit("The words are spoken by espeak-ng, which is not installed: apt-get install espeak-ng.")
    voices, copies, epochs = (VOICES[:3], 1, 2) if options.quick else (VOICES, 3, 20)
    train = recordings(voices[:-2], (120, 150, 180, 210), copies)
    validation = recordings(voices[-2:-1], (135, 165, 195), copies)
    test = recordings(voices[-1:], (135, 165, 195), copies)

    keras.utils.set_random_seed(0)
    original = network()
    normalized = [(x - train[0].mean()) / train[0].std() for x, _ in (train, validation, test)]
    train, validation, test = ((x, y) for x, (_, y) in zip(normalized, (train, validation, test), strict=True))
    original.compile(keras.optimizers.Adam(2e-3), LOSS, metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=4, restore_best_weights=True)
    original.fit(*train, batch_size=64, epochs=epochs, validation_data=validation, callbacks=[stop], verbose=0)

    ways, memory = {"the network, float32": (original, "float32"), "the network, int8": (original, "int8")}, {}
    for keep in (0.75, 0.5, 0.25):
        smaller, _ = kopt.prune.channels(original, keep=keep, criterion="bn_scale")
        smaller, _ = kopt.prune.recover(
            smaller, train, validation, teacher=original, epochs=max(1, epochs // 4), loss=LOSS
        )
        ways[f"{100 * keep:.0f} % of the channels, taught, int8"] = (smaller, "int8")
    found = outcome.shipped(ways, test, calibration=train[0][:256], io_dtype="int8")
    rows = outcome.against_first(found)
    for row, one, (model, _) in zip(rows, found, ways.values(), strict=True):
        memory[one.way] = arena_bytes(model) * (4 if "float32" in one.way else 1)
        fits = one.size_bytes <= FLASH_BYTES and memory[one.way] <= MEMORY_BYTES and one.operators == ("int8",)
        row |= {"arena kB": f"{memory[one.way] / 1000:.1f}", "fits": "yes" if fits else "no"}
    outcome.publish(
        "keyword_spotting",
        "Keyword spotting for a microcontroller",
        [
            (
                f"{len(KEYWORDS)} words spoken by a synthesizer (espeak-ng) in noise: {len(train[1]):,} recordings "
                f"of {len(voices) - 2} accents to train with, accuracy on {len(test[1]):,} of an accent that the "
                f"network never heard. A file fits where it is at most {FLASH_BYTES // 1000} kB, its activations "
                f"that stand at once at most {MEMORY_BYTES // 1000} kB, and every operator computes in integers. "
                "Times are of LiteRT on this computer.",
                rows,
            )
        ],
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
