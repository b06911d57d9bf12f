"""A recommender: what gradients say of its layers, rates of their own for them, and small embeddings."""

import functools
from collections.abc import Callable

import keras
import numpy as np
import outcome
from keras import layers as L

import kopt

USERS, ITEMS, TASTES = 3_000, 6_000, 8


def interactions(count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return who met what, and who liked it: tastes of people and items are hidden, few items are met by most."""
    world = np.random.default_rng(0)
    people, items = world.normal(size=(USERS, TASTES)), world.normal(size=(ITEMS, TASTES))
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.8
    random = np.random.default_rng(seed)
    user = random.integers(0, USERS, count)
    item = random.choice(ITEMS, count, p=popularity / popularity.sum())
    liking = (people[user] * items[item]).sum(axis=1) / np.sqrt(TASTES) + random.logistic(0, 0.5, count)
    return {"user": user[:, None].astype(np.int32), "item": item[:, None].astype(np.int32)}, (liking > 0).astype(
        np.int32
    )


def network(width: int = 32) -> keras.Model:
    """Return two embeddings, their product, and two layers on top."""
    user, item = (keras.Input((1,), dtype="int32", name=name) for name in ("user", "item"))
    person = L.Flatten()(L.Embedding(USERS, width, name="people")(user))
    thing = L.Flatten()(L.Embedding(ITEMS, width, name="things")(item))
    x = L.Concatenate(name="both")([L.Multiply(name="product")([person, thing]), person, thing])
    x = L.Dense(32, activation="relu", name="mixed")(x)
    return keras.Model([user, item], L.Dense(1, activation="sigmoid", name="liked")(x), name="recommender")


def learned(
    optimizer: keras.optimizers.Optimizer, seed: int, train, validation, epochs: int
) -> tuple[float, keras.Model]:
    """Return the area under the curve of a trained network on `validation`, and the network."""
    keras.utils.set_random_seed(seed)
    model = network()
    model.compile(optimizer, "binary_crossentropy", jit_compile=False)
    batches = kopt.data.from_arrays(*train, batch_size=256, shuffle=True, seed=seed)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    return kopt.measure.evaluate(model, validation, metrics=("auc",), batch_size=1024).metrics["auc"], model


def main() -> None:
    """Look at the gradients, train with one rate and with rates by layer, and shrink the better network."""
    options = outcome.arguments(__doc__)
    count, epochs, seeds = (20_000, 1, 1) if options.quick else (400_000, 6, 5)
    train, validation, test = interactions(count, 1), interactions(count // 10, 2), interactions(count // 10, 3)

    keras.utils.set_random_seed(0)
    fresh = network()
    fresh.compile("sgd", "binary_crossentropy")
    probe = {name: part[:16_384] for name, part in train[0].items()}, train[1][:16_384]
    print(kopt.profile.gradients(fresh, probe, batch_size=256).table())
    multipliers = kopt.train.multipliers_from_gradient_variance(
        fresh, kopt.data.from_arrays(*probe, batch_size=256), power=1.0, limits=(0.1, 1000.0)
    )
    for row in multipliers.rows:
        print(f"{row.variable}: {row.multiplier:.3g} times the rate")

    optimizers: dict[str, Callable[[], keras.optimizers.Optimizer]] = {}
    for rate in (0.1, 0.3, 1.0):
        sgd = functools.partial(keras.optimizers.SGD, rate, momentum=0.9)
        optimizers[f"SGD {rate}, one rate"] = sgd
        optimizers[f"SGD {rate}, rates by layer"] = lambda sgd=sgd: kopt.train.LearningRateMultipliers(
            sgd(), multipliers
        )
    optimizers |= {f"Adam {rate}": functools.partial(keras.optimizers.Adam, rate) for rate in (3e-4, 1e-3)}
    rates, best = [], (0.0, fresh)
    for name, optimizer in optimizers.items():
        found = [learned(optimizer(), seed, train, validation, epochs) for seed in range(seeds)]
        best = max(best, *found, key=lambda pair: pair[0])
        values = [100 * auc for auc, _ in found]
        shown = ", ".join(f"{value:.2f}" for value in values)
        rates.append({"training": name, "mean": f"{np.mean(values):.2f}", "seeds": shown})

    model = best[1]
    shared, _ = kopt.cluster.weights(model, clusters=16, layers=["people", "things"])
    shared, _ = kopt.cluster.finalize(shared)
    found = outcome.shipped(
        {
            "the better network, float32": (model, "float32"),
            "weights of 16 bits": (model, "float16"),
            "weights of 8 bits": (model, "dynamic"),
            "16 values for each embedding, float32": (shared, "float32"),
            "16 values for each embedding, weights of 8 bits": (shared, "dynamic"),
        },
        test,
        metric="auc",
    )
    outcome.publish(
        "recommender",
        "A recommender",
        [
            (
                f"Whether somebody likes a thing: {count:,} examples of hidden tastes, {USERS:,} people, {ITEMS:,} "
                "things. In a batch most rows of an embedding have no gradient, so its mean gradient is small; the "
                "multipliers, found before training, make up for it. Area under the curve on other examples, in "
                "percent.",
                rates,
            ),
            (
                f"Of {model.count_params():,} parameters {(USERS + ITEMS) * 32:,} are in the embeddings. Area under "
                f"the curve on {len(test[1]):,} test examples, of the file in LiteRT with one thread. Values that "
                "weights share pay after gzip, as in a download.",
                outcome.against_first(found, "auc"),
            ),
        ],
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
