import json
import subprocess
import sysconfig
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import kopt
from kopt.core.errors import ConfigError, LoadError, OutputExistsError, ParityError, UnsupportedModelError
from kopt.core.records.shipping.serving import BatchingPlan
from kopt.serve.endpoints import CLASSIFY_METHOD
from kopt.serve.warming import FILE

PLAN = BatchingPlan(4, 100, 10, 1, (1, 4))
NAMES = ["cat", "dog", "eel"]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), np.uint8)


def classifier(outputs=3):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    head = layers.Dense(outputs, activation="softmax" if outputs > 1 else "sigmoid", name="scores")
    return keras.Sequential([keras.Input((5, 6, 3), name="image"), layers.Flatten(), head], name="animals")


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """A bundle with every signature, and the SavedModel that it holds."""
    directory = tmp_path_factory.mktemp("models") / "animals"
    bundle = kopt.serve.bundle(
        model,
        directory,
        image=kopt.serve.RawImage(scale=2.0, offset=-1.0),
        examples=True,
        class_names=NAMES,
        top_k=2,
        batching=PLAN,
        labels=["stable"],
    )
    return bundle, tf.saved_model.load(bundle.artifact.path)


@pytest.fixture(scope="module")
def expected(model):
    """Scores of the images as the bundle's signature makes them into inputs: in [-1, 1]."""
    return model(IMAGES.astype(np.float32) / 255 * 2 - 1).numpy()


def files():
    return tf.constant([tf.io.encode_png(image).numpy() for image in IMAGES])


def serialized():
    return tf.constant(
        [
            tf.train.Example(
                features=tf.train.Features(
                    feature={"image_bytes": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))}
                )
            ).SerializeToString()
            for content in files().numpy()
        ]
    )


def test_signatures_carry_the_names_of_the_model(made):
    bundle, loaded = made
    assert (bundle.name, bundle.version, bundle.served, bundle.labels) == ("animals", 1, (1,), {"stable": 1})
    assert [(s.name, s.inputs, s.outputs) for s in bundle.signatures] == [
        ("serving_default", ("image",), ("scores",)),
        ("serving_images", ("image_bytes",), ("scores",)),
        ("serving_examples", ("examples",), ("scores",)),
        ("classify", ("inputs",), ("classes", "scores")),
        ("top_k", ("image",), ("classes", "scores")),
    ]
    for signature in bundle.signatures:
        function = loaded.signatures[signature.name]
        assert tuple(function.structured_input_signature[1]) == signature.inputs
        assert tuple(sorted(function.structured_outputs)) == signature.outputs


def test_image_files_are_preprocessed_inside_the_graph(made, expected):
    _, loaded = made
    np.testing.assert_allclose(loaded.signatures["serving_images"](files())["scores"], expected, atol=1e-6)
    np.testing.assert_allclose(loaded.signatures["serving_examples"](serialized())["scores"], expected, atol=1e-6)


def test_classes_come_best_first_with_their_names(made, expected):
    _, loaded = made
    order = np.argsort(-expected, axis=-1)[:, :2]
    for answer in (
        loaded.signatures["classify"](serialized()),
        loaded.signatures["top_k"](tf.constant(IMAGES.astype(np.float32) / 255 * 2 - 1)),
    ):
        assert [[name.decode() for name in row] for row in answer["classes"].numpy()] == [
            [NAMES[index] for index in row] for row in order
        ]
        np.testing.assert_allclose(answer["scores"], np.take_along_axis(expected, order, -1), atol=1e-6)


def test_the_classify_signature_has_the_method_that_tf_serving_asks_for(made):
    bundle, _ = made
    path = Path(bundle.artifact.path) / "saved_model.pb"
    from tensorflow.core.protobuf import saved_model_pb2

    (graph,) = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs
    methods = {name: definition.method_name for name, definition in graph.signature_def.items()}
    assert methods["classify"] == CLASSIFY_METHOD
    assert methods["serving_default"] == methods["top_k"] == "tensorflow/serving/predict"


def test_warm_up_requests_are_records_that_every_signature_answers(made):
    bundle, loaded = made
    records = list(kopt.serve.read_warmup(bundle.directory))
    assert records == list(kopt.serve.read_warmup(bundle.artifact.path))
    with pytest.raises(LoadError, match="no directory"):
        list(kopt.serve.read_warmup("nowhere"))
    assert len(records) == bundle.warmup_records == 10  # 5 signatures, batches of 1 and 4
    sizes = []
    for record in records:
        if record.WhichOneof("log_type") == "classify_log":
            request = record.classify_log.request
            examples = [example.SerializeToString() for example in request.input.example_list.examples]
            feeds = {"inputs": tf.constant(examples)}
        else:
            request = record.predict_log.request
            feeds = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        assert request.model_spec.name == "animals"
        answer = loaded.signatures[request.model_spec.signature_name](**feeds)
        sizes.append(len(answer["scores"]))
    assert sorted(sizes) == [1] * 5 + [4] * 5


def test_the_manifest_holds_for_what_lies_there(made):
    bundle, _ = made
    found = kopt.export.verify(bundle.artifact.path)
    assert found.ok
    assert found.artifact.options["signatures"].startswith("serving_default, serving_images")
    assert bundle.artifact.parity.max_abs < 1e-6


def test_what_servers_are_started_with_lies_beside_the_versions(made):
    directory = Path(made[0].directory)
    assert sorted(path.name for path in directory.iterdir() if path.name[0] != ".") == [
        *("1", "1.json", "1.reference.npz", "batching_parameters.txt", "docker-compose.yml", "kubernetes.yaml"),
        *("models.config", "monitoring.config", "serving.json"),
    ]
    assert "max_batch_size { value: 4 }" in (directory / "batching_parameters.txt").read_text()
    assert f"image: tensorflow/serving:{tf.__version__}" in (directory / "docker-compose.yml").read_text()


def test_a_single_probability_is_that_of_the_second_class(tmp_path):
    model = classifier(outputs=1)
    bundle = kopt.serve.bundle(model, tmp_path / "m", class_names=["no", "yes"], batching=False, warmup=False)
    pixels = IMAGES.astype(np.float32)
    answer = tf.saved_model.load(bundle.artifact.path).signatures["top_k"](tf.constant(pixels))
    yes = model(pixels).numpy()[:, 0]
    scores = {
        (row, name.decode()): score
        for row in range(3)
        for name, score in zip(answer["classes"].numpy()[row], answer["scores"].numpy()[row], strict=True)
    }
    for row in range(3):
        assert scores[row, "yes"] == pytest.approx(yes[row], abs=1e-6)
        assert scores[row, "no"] == pytest.approx(1 - yes[row], abs=1e-6)
    assert bundle.warmup_records == 0
    assert not (Path(bundle.artifact.path) / FILE).exists()


@pytest.mark.slow
def test_versions_follow_each_other_and_roll_back(model, tmp_path):
    directory = tmp_path / "m"
    quick = {"batching": False, "warmup": False}
    assert [kopt.serve.bundle(model, directory, **quick).version for _ in range(2)] == [1, 2]
    kopt.serve.set_labels(directory, stable=2)
    state = kopt.serve.rollback(directory)
    assert (state.withdrawn, state.labels) == ((2,), {"stable": 1})
    assert "versions: 1 }" in (directory / "models.config").read_text()
    with pytest.raises(OutputExistsError, match="Version 2"):
        kopt.serve.bundle(model, directory, version=2, **quick)
    kopt.serve.set_labels(directory, old=1)
    third = kopt.serve.bundle(model, directory, labels=["canary"], **quick)
    assert (third.version, third.served, third.labels) == (3, (1, 3), {"stable": 1, "old": 1, "canary": 3})


def test_a_rollback_to_a_damaged_version_is_refused(model, tmp_path):
    directory = tmp_path / "m"
    for _ in range(2):
        kopt.serve.bundle(model, directory, batching=False, warmup=False)
    index = directory / "1" / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(LoadError, match="not the file that its manifest describes"):
        kopt.serve.rollback(directory)
    assert kopt.serve.serving_state(directory).withdrawn == ()


def test_a_directory_half_written_by_somebody_else_keeps_its_number(model, tmp_path):
    (tmp_path / "m" / "1" / "variables").mkdir(parents=True)
    bundle = kopt.serve.bundle(model, tmp_path / "m", batching=False, warmup=False)
    assert bundle.version == 2
    assert list((tmp_path / "m" / "1").rglob("*")) == [tmp_path / "m" / "1" / "variables"]


def test_a_saved_model_made_elsewhere_is_served_as_it_is(tmp_path):
    source = Path(__file__).parents[2] / "data" / "dense_saved_model"
    bundle = kopt.serve.bundle(source, tmp_path / "dense", batching=PLAN)
    assert bundle.warmup_records == 2
    with pytest.raises(UnsupportedModelError, match="Keras model"):
        kopt.serve.bundle(source, tmp_path / "dense", class_names=NAMES, batching=False)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"class_names": ["a"]}, ConfigError, r"Received: 1 name\(s\) for scores \(None, 3\)"),
        ({"class_names": ["a", "a", "b"]}, ConfigError, "different words"),
        ({"class_names": NAMES, "top_k": 0}, ConfigError, "top_k"),
        ({"variant": "xlaa"}, ConfigError, "Did you mean 'xla'"),
        ({"batching": "yes"}, ConfigError, "BatchingPlan. Received: 'yes'"),
        ({"labels": "stable"}, ConfigError, "list of words"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"version": -1}, ConfigError, "version"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_nothing_is_written(model, tmp_path, settings, error, words):
    with pytest.raises(error, match=words):
        kopt.serve.bundle(model, tmp_path / "m", **settings)
    assert not list(tmp_path.glob("m/[!.]*"))


def test_an_image_signature_needs_an_image_model(tmp_path):
    vector = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(UnsupportedModelError, match="Leave `image` out"):
        kopt.serve.bundle(vector, tmp_path / "m", image=kopt.serve.RawImage())
    with pytest.raises(ConfigError, match="name is the model's name"):
        kopt.serve.bundle(vector, tmp_path / "a name")


def test_a_signature_that_does_not_run_never_becomes_a_version(model, tmp_path, monkeypatch):
    monkeypatch.setattr("kopt.serve.warming._example", lambda *_: b"no example")
    with pytest.raises(ParityError, match="'serving_examples' was written but does not run"):
        kopt.serve.bundle(model, tmp_path / "m", examples=True, batching=False)
    assert not list(tmp_path.glob("m/[!.]*"))


@pytest.mark.slow
def test_the_optimized_variant_has_its_weights_in_the_graph_and_works_out_what_is_constant(tmp_path):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2), name="image")
    hidden = keras.layers.BatchNormalization(name="normalized")(keras.layers.Conv2D(3, 3)(image))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(hidden))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax", name="scores")(hidden))
    generator = np.random.default_rng(0)
    model.get_layer("normalized").set_weights([generator.uniform(0.5, 2.0, 3) for _ in range(4)])
    operators, files = {}, {}
    x = generator.normal(size=(5, 6, 6, 2)).astype(np.float32)
    for variant in ("plain", "optimized"):
        directory = tmp_path / variant
        settings = {"class_names": list("abc"), "batching": False, "variant": variant}
        path = directory / str(kopt.serve.bundle(model, directory, **settings).version)
        proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        functions = proto.meta_graphs[0].graph_def.library.function
        operators[variant] = [node.op for function in functions for node in function.node_def]
        files[variant] = {file.name: file.stat().st_size for file in path.rglob("*") if file.is_file()}
        runners = kopt.measure.load_signatures(path)
        np.testing.assert_allclose(runners["serving_default"].predict(x), model.predict(x, verbose=0), atol=1e-6)
        assert {name: runner.fixed_batch for name, runner in runners.items() if name == "top_k"} == {"top_k": None}
    # The square root of the variances is of constants alone.
    assert "Rsqrt" in operators["plain"]
    assert not {"Rsqrt", "ReadVariableOp"} & set(operators["optimized"])
    weights = 4 * sum(np.size(one) for one in model.get_weights())
    assert files["plain"]["variables.data-00000-of-00001"] > weights
    assert (
        files["optimized"]["variables.data-00000-of-00001"] < files["plain"]["variables.data-00000-of-00001"] - weights
    )
    with pytest.raises(UnsupportedModelError, match="Pass the Keras model for variant='optimized'"):
        kopt.serve.bundle(path, tmp_path / "again", variant="optimized")


@pytest.mark.slow
def test_batching_parameters_come_from_measured_calls(model, tmp_path):
    bundle = kopt.serve.bundle(model, tmp_path / "m", variant="xla")
    assert [latency.batch_size for latency in bundle.batching.latencies] == [1, 2, 4, 8, 16, 32, 64]
    assert bundle.batching.max_batch_size > 1  # a tiny model costs its overhead, whatever the batch
    assert bundle.warmup_records == len(bundle.batching.allowed_batch_sizes)
    fixed = kopt.serve.bundle(model, tmp_path / "m", batch_size=2)
    assert fixed.batching.allowed_batch_sizes == (2,)
    assert fixed.artifact.inputs[0].shape == (2, 5, 6, 3)


@pytest.mark.slow
def test_other_programs_read_the_bundle(made, tmp_path, expected):
    bundle, _ = made
    command = Path(sysconfig.get_path("scripts")) / "saved_model_cli"
    shown = subprocess.run([command, "show", "--dir", bundle.artifact.path, "--all"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "signature_def['classify']" in shown.stdout
    np.save(tmp_path / "x.npy", IMAGES.astype(np.float32) / 255 * 2 - 1)
    subprocess.run(
        [
            *(command, "run", "--dir", bundle.artifact.path, "--tag_set", "serve"),
            *("--signature_def", "serving_default", "--inputs", f"image={tmp_path / 'x.npy'}", "--outdir", tmp_path),
        ],
        check=True,
        capture_output=True,
    )
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, atol=1e-6)
    # A reader of SavedModels that shares no code with the one that ran above: tf2onnx and ONNX Runtime.
    onnx = kopt.export.onnx(bundle.artifact.path, tmp_path / "m.onnx")
    runner = kopt.measure.load(onnx.path)
    np.testing.assert_allclose(runner.predict(IMAGES.astype(np.float32) / 255 * 2 - 1), expected, atol=1e-6)


def test_a_bundle_is_a_record(made):
    bundle, _ = made
    assert type(bundle).from_json(bundle.to_json()) == bundle
    assert json.loads(bundle.to_json())["schema"] == "ServingBundle/1"
