"""What the processes of `test_distribution.py` run: a job by its name."""

import os
import warnings

import keras
import numpy as np
import tensorflow as tf

from kopt.core.errors import KoptError
from kopt.train.acceleration.accelerate import accelerate
from kopt.train.acceleration.checkpoints import Checkpointing
from kopt.train.distribution.devices import logical_cpus
from kopt.train.distribution.strategies import strategy, watching
from kopt.train.numerics.mixed_precision import to_precision

BATCH, STEPS, EPOCHS = 8, 6, 3


def network():
    keras.utils.set_random_seed(3)
    x = keras.Input((6,))
    y = keras.layers.Dense(8, "tanh")(x)
    model = keras.Model(x, keras.layers.Dense(3)(y))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"])
    return model


def dataset():
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCH * STEPS, 6)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, np.sin(x[:, :3]))).batch(BATCH)


def summary(model, history):
    return {"weights": model.get_weights(), "loss": history.history["loss"], "mae": history.history.get("mae")}


def train(scope, callbacks=()):
    with scope.scope():
        model = network()
    with watching(scope):
        history = model.fit(dataset(), epochs=EPOCHS, verbose=0, shuffle=False, callbacks=list(callbacks))
    return summary(model, history)


def one():
    return train(tf.distribute.get_strategy())


def one_device():
    return train(strategy("one_device"))


def mirrored():
    logical_cpus(2)
    scope = strategy("mirrored", devices=["CPU:0", "CPU:1"])
    return {**train(scope), "replicas": scope.num_replicas_in_sync, **mixed_on(scope)}


def mixed_on(scope):
    """Train a float16 twin of a model that was built in `scope`."""
    with scope.scope():
        model = network()
    mixed, _ = to_precision(model, "mixed_float16")
    with scope.scope():
        mixed.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    history = mixed.fit(dataset(), epochs=EPOCHS, verbose=0, shuffle=False)
    scaled = isinstance(mixed.optimizer, keras.optimizers.LossScaleOptimizer)
    return {"mixed weights": summary(model, history)["weights"], "mixed scaled": scaled}


class EndAt(keras.callbacks.Callback):
    """Kills this process in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        # In a tuple, so that a resumed training does not get it back from its checkpoint.
        self.epochs, self.current = (epoch,), -1

    def on_epoch_begin(self, epoch, logs=None):
        self.current = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.current in self.epochs and batch == STEPS // 2:
            os.kill(os.getpid(), 9)


def worker(backup="", end_at=-1, timeout=10):
    scope = strategy("multi_worker", start_timeout_s=60, heartbeat_timeout_s=timeout)
    callbacks = [keras.callbacks.BackupAndRestore(backup)] if backup else []
    return {**train(scope, [*callbacks, EndAt(end_at)]), "replicas": scope.num_replicas_in_sync}


def accelerated(checkpoint="", end_at=-1, timeout=10):
    scope = strategy("multi_worker", start_timeout_s=60, heartbeat_timeout_s=timeout)
    with scope.scope():
        model = network()
    saving = Checkpointing(checkpoint, every_steps=2) if checkpoint else None
    fast = accelerate(model, checkpoint=saving)
    return summary(model, fast.fit(dataset(), epochs=EPOCHS, verbose=0, callbacks=[EndAt(end_at)]))


def alone():
    strategy("multi_worker", start_timeout_s=2)


def too_late():
    tf.constant(1.0) + 1
    strategy("multi_worker")


def parameter_server_task(kind):
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    tf.distribute.Server(resolver.cluster_spec(), job_name=kind, task_index=0).join()


def parameter_server_chief():
    scope = strategy("parameter_server")
    coordinator = tf.distribute.coordinator.ClusterCoordinator(scope)
    with scope.scope():
        model = network()
        try:
            model.fit(dataset(), verbose=0)
            refused = ""
        except KoptError as error:
            refused = str(error)
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(iterator):
        def replica_step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
            optimizer.apply(tape.gradient(loss, model.trainable_variables))
            return loss

        return scope.run(replica_step, args=next(iterator))

    per_worker = iter(coordinator.create_per_worker_dataset(lambda: dataset().repeat()))
    before = float(coordinator.schedule(step, args=(per_worker,)).fetch())
    for _ in range(30):
        coordinator.schedule(step, args=(per_worker,))
    coordinator.join()
    after = float(coordinator.schedule(step, args=(per_worker,)).fetch())
    return {"refused": refused, "before": before, "after": after}


def run(job, *arguments):
    """Run a job by its name, and return what it returns, or the error of kopt that ended it."""
    # Keras warns that `shuffle` has no use for a data set; the jobs run outside of pytest's filters.
    warnings.filterwarnings("ignore", message="`shuffle=")
    try:
        return globals()[job](*arguments)
    except KoptError as error:
        return {"error": type(error).__name__, "message": str(error)}
