"""The files that servers are started with, as text. Pure."""

from kopt.core.records.shipping.serving import BatchingPlan, ServingState
from kopt.version import __version__

GRPC_PORT = 8500
REST_PORT = 8501
METRICS_PATH = "/monitoring/prometheus/metrics"
MODELS_CONFIG = "models.config"
BATCHING = "batching_parameters.txt"
MONITORING = "monitoring.config"
_POLL_S = 10


def models_config_text(name: str, state: ServingState, present: tuple[int, ...]) -> str:
    """Return the text of TF Serving's `ModelServerConfig`, which names the versions to serve and their labels.

    TF Serving loads the newest version itself where nothing is withdrawn or labelled.
    """
    wanted = state.wanted(present)
    plain = not state.labels and wanted == present[-1:]
    policy = "latest { num_versions: 1 }" if plain else f"specific {{ {' '.join(f'versions: {v}' for v in wanted)} }}"
    labels = [
        f'    version_labels {{ key: "{label}" value: {version} }}' for label, version in sorted(state.labels.items())
    ]
    lines = [
        "model_config_list {",
        "  config {",
        f'    name: "{name}"',
        f'    base_path: "/models/{name}"',
        '    model_platform: "tensorflow"',
        f"    model_version_policy {{ {policy} }}",
        *labels,
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def monitoring_text() -> str:
    """Return the text of TF Serving's `MonitoringConfig`."""
    return f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n'


def server_arguments(name: str, batching: BatchingPlan | None) -> list[str]:
    """Return the arguments of `tensorflow_model_server` for a bundle that is mounted at `/models/<name>`."""
    base = f"/models/{name}"
    return [
        f"--port={GRPC_PORT}",
        f"--rest_api_port={REST_PORT}",
        f"--model_config_file={base}/{MODELS_CONFIG}",
        f"--model_config_file_poll_wait_seconds={_POLL_S}",
        # Labels are set in the same file that makes their version load, so before it has.
        "--allow_version_labels_for_unavailable_models=true",
        f"--monitoring_config_file={base}/{MONITORING}",
        *(["--enable_batching=true", f"--batching_parameters_file={base}/{BATCHING}"] if batching else []),
    ]


def compose_text(name: str, image: str, batching: BatchingPlan | None) -> str:
    """Return `docker-compose.yml`: the bundle's own directory, read-only, on the ports of this machine alone."""
    arguments = "\n".join(f"      - {argument}" for argument in server_arguments(name, batching))
    return f"""# Written by kopt {__version__}. Start it with: docker compose up
services:
  {name}:
    image: {image}
    entrypoint: tensorflow_model_server
    command:
{arguments}
    ports:
      - "127.0.0.1:{GRPC_PORT}:{GRPC_PORT}"
      - "127.0.0.1:{REST_PORT}:{REST_PORT}"
    volumes:
      - .:/models/{name}:ro
    read_only: true
    tmpfs:
      - /tmp
    security_opt:
      - no-new-privileges:true
    restart: unless-stopped
    stop_grace_period: 30s
"""


def kubernetes_text(name: str, image: str, batching: BatchingPlan | None) -> str:
    """Return a Deployment and a Service; the bundle is expected on the volume claim `<name>-models`."""
    app = name.lower().replace("_", "-").replace(".", "-")
    arguments = "\n".join(f"            - {argument}" for argument in server_arguments(name, batching))
    return f"""# Written by kopt {__version__}. Copy this directory to the root of the volume
# behind the claim {app}-models.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {app}
spec:
  replicas: 2
  selector:
    matchLabels:
      app: {app}
  template:
    metadata:
      labels:
        app: {app}
    spec:
      terminationGracePeriodSeconds: 30
      automountServiceAccountToken: false
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
      containers:
        - name: serving
          image: {image}
          command:
            - tensorflow_model_server
          args:
{arguments}
          ports:
            - name: grpc
              containerPort: {GRPC_PORT}
            - name: rest
              containerPort: {REST_PORT}
          # The port opens once a version is loaded and warmed up.
          readinessProbe:
            httpGet:
              path: /v1/models/{name}
              port: rest
            periodSeconds: 5
          livenessProbe:
            tcpSocket:
              port: grpc
            initialDelaySeconds: 30
            periodSeconds: 10
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
          volumeMounts:
            - name: models
              mountPath: /models/{name}
              readOnly: true
            - name: scratch
              mountPath: /tmp
      volumes:
        - name: models
          persistentVolumeClaim:
            claimName: {app}-models
            readOnly: true
        - name: scratch
          emptyDir: {{}}
---
apiVersion: v1
kind: Service
metadata:
  name: {app}
spec:
  selector:
    app: {app}
  ports:
    - name: grpc
      port: {GRPC_PORT}
      targetPort: grpc
    - name: rest
      port: {REST_PORT}
      targetPort: rest
"""
