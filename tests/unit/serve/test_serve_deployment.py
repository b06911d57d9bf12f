import re

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from kopt.core.records.shipping.serving import BatchingPlan, ServingState
from kopt.serve.deployment import compose_text, kubernetes_text, models_config_text, server_arguments

PLAN = BatchingPlan(8, 500, 20, 1, (1, 8))


def config(state, present):
    text = models_config_text("digits", state, present)
    message = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (only,) = message.model_config_list.config
    return only


def test_tf_serving_follows_the_newest_version_by_itself():
    only = config(ServingState(), (1, 2))
    assert (only.name, only.base_path, only.model_platform) == ("digits", "/models/digits", "tensorflow")
    assert only.model_version_policy.latest.num_versions == 1


def test_labels_and_withdrawn_versions_make_the_choice_explicit():
    only = config(ServingState(withdrawn=(3,), labels={"stable": 1}), (1, 2, 3))
    assert list(only.model_version_policy.specific.versions) == [1, 2]
    assert dict(only.version_labels) == {"stable": 1}
    assert list(config(ServingState(withdrawn=(3,)), (1, 2, 3)).model_version_policy.specific.versions) == [2]


def test_batching_is_turned_on_only_with_parameters():
    arguments = server_arguments("digits", PLAN)
    assert arguments[-2:] == [
        "--enable_batching=true",
        "--batching_parameters_file=/models/digits/batching_parameters.txt",
    ]
    assert server_arguments("digits", None) == arguments[:-2]


def test_ports_of_the_compose_file_are_of_this_machine_alone():
    text = compose_text("digits", "tensorflow/serving:2.21.0", PLAN)
    assert re.findall(r'- "(.*)"', text) == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert "      - .:/models/digits:ro\n" in text


def test_kubernetes_names_have_no_capitals_and_the_model_keeps_its_own():
    text = kubernetes_text("My_Digits", "tensorflow/serving:2.21.0", PLAN)
    assert text.count("name: my-digits\n") == 2
    assert "path: /v1/models/My_Digits\n" in text
    assert text.count("\n            - --") == len(server_arguments("My_Digits", PLAN))
