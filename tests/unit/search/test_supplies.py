"""What child processes read, as it comes back from the disk."""

import keras
import numpy as np
import pytest
import zoo

from kopt.core.records.search.budget import Budget
from kopt.graph import fingerprint
from kopt.search.lessons import prepare
from kopt.search.opening import open_workshop
from kopt.search.plan import plan_of
from kopt.search.proposing.facts import Facts
from kopt.search.training import Training
from kopt.search.trials import supplies

X = np.random.default_rng(0).random((40, 6), np.float32)


@pytest.fixture
def place(tmp_path):
    model, training = zoo.build("custom"), Training(epochs=3, loss="mse")
    lessons = prepare(model, (X, X[:, :2]), training, num_classes=None, seed=5)
    supplies.write(tmp_path / "s", model, {"x": X}, training=training, lessons=lessons, seed=5)
    return tmp_path / "s", model, lessons, training


def test_they_come_back_as_they_were(place):
    directory, model, lessons, training = place
    work = supplies.work(directory)
    assert fingerprint(work.original) == fingerprint(model)
    assert (work.training, work.seed, work.loss) == (training, 5, "mse")
    for found, given in ((work.train, lessons.train), (work.held, lessons.held)):
        assert np.array_equal(found.x, given.x)
        assert np.array_equal(found.y, given.y)
    assert np.array_equal(work.calibration["x"], X)


def test_modules_of_the_users_own_layers_are_named(place):
    assert supplies.terms(place[0]).imports == ("zoo",)
    assert supplies.why_not_opened(*place[:2]) == ""


def opened(model, tmp_path):
    plan = plan_of(Facts(), None, Budget(), None)
    return open_workshop(tmp_path, model, {"model": "m"}, {"x": X}, plan, None, 0)


def test_a_model_of_the_script_itself_is_only_shipped(tmp_path):
    own = type("Own", (keras.layers.Layer,), {"call": lambda self, x: x, "__module__": "__main__"})
    inputs = keras.Input((6,), name="x")
    workshop, plan = opened(keras.Model(inputs, own(name="own")(inputs)), tmp_path)
    assert workshop is None
    assert plan.changes == {}
    assert "Own of the script that runs cannot be imported there" in plan.notes[-1]


def test_a_model_that_stores_code_is_only_shipped(tmp_path):
    inputs = keras.Input((6,), name="x")
    outputs = keras.layers.Lambda(lambda x: x * 2, output_shape=(6,), name="twice")(inputs)
    workshop, plan = opened(keras.Model(inputs, outputs), tmp_path)
    assert workshop is None
    assert "stores Python code" in plan.notes[-1]


def test_a_data_set_that_comes_in_another_order_goes_on_with_what_there_is(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(2)])
    training, order = Training(epochs=3, loss="mse"), np.random.default_rng(1).permutation(len(X))

    def opened_with(x, y):
        lessons = prepare(model, (x, y), training, num_classes=None, seed=5)
        plan = plan_of(Facts(), None, Budget(), training)
        return open_workshop(tmp_path, model, {"model": "m"}, {"x": X}, plan, lessons, 5)[0]

    first, again = opened_with(X, X[:, :2]), opened_with(X[order], X[order, :2])
    assert again.lessons == first.lessons
    (place,) = tmp_path.glob("supplies-*")
    held = supplies.work(place).held
    assert np.array_equal(held.x, prepare(model, (X, X[:, :2]), training, num_classes=None, seed=5).held.x)
    others = [(X[order], X[:, :2]), (X[1:], X[1:, :2])]
    assert len({one.lessons["lessons"] for one in (first, *(opened_with(*other) for other in others))}) == 3
