"""Serve a model over HTTP as TF Serving does, until SIGTERM or Ctrl-C."""

import argparse
import json
import sys
from pathlib import Path

import kopt
from kopt.cli.common import show_text
from kopt.core.records.shipping.monitoring import Monitoring, Traffic
from kopt.core.records.shipping.serving import ServerSettings

_DEFAULTS, _WATCH, _TRAFFIC = ServerSettings(), Monitoring(), Traffic()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory of versions, SavedModel directory, .tflite, .onnx, .keras or .h5"
    )
    parser.add_argument("--name", help="of the model in URLs; that of the file or directory by default")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; this machine alone by default")
    parser.add_argument("--port", type=int, default=8501, help="0 takes a free one")
    parser.add_argument("--threads", type=int, help="threads for LiteRT and ONNX Runtime")
    parser.add_argument("--workers", type=int, default=_DEFAULTS.workers, help="calls of the runtime that run at once")
    parser.add_argument("--max-batch", type=int, default=_DEFAULTS.max_batch_size, help="examples in one call")
    parser.add_argument(
        "--batch-wait-ms", type=float, default=_DEFAULTS.batch_wait_ms, help="milliseconds to wait for company"
    )
    parser.add_argument(
        "--max-queue", type=int, default=_DEFAULTS.max_queue, help="examples that wait; more are refused with 429"
    )
    parser.add_argument("--max-examples", type=int, default=_DEFAULTS.max_examples, help="examples in a request")
    parser.add_argument("--max-request-bytes", type=int, default=_DEFAULTS.max_request_bytes, help="of a body")
    parser.add_argument("--timeout", type=float, default=_DEFAULTS.timeout_s, help="seconds until a request gets 504")
    parser.add_argument("--poll", type=float, default=_DEFAULTS.poll_s, help="seconds between looks for a new version")
    parser.add_argument("--drain", type=float, default=_DEFAULTS.drain_s, help="seconds to answer what is under way")
    _add_monitoring(parser)
    parser.add_argument("--unsafe", action="store_true", help="open a model file that stores Python code, and run it")


def _add_monitoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("monitoring", "read with `kopt monitor LOG`")
    group.add_argument("--monitor", action="store_true", help="metrics of inputs, predictions, drift; labels; no log")
    group.add_argument("--log", metavar="LOG", help="a line of JSON a request, rotated; implies --monitor")
    group.add_argument("--log-bytes", type=int, default=_WATCH.max_log_bytes, help="of a file before the next begins")
    group.add_argument("--sample", type=float, default=_WATCH.sample, help="share of requests whose inputs are kept")
    group.add_argument("--score", default=_WATCH.score, help="of labels: accuracy or 'absolute error'")
    group.add_argument("--alerts", type=Path, metavar="FILE", help="rules as JSON; implies --monitor")
    group.add_argument("--main", metavar="LABEL", help="of the version that answers; the newest by default")
    group.add_argument("--canary", metavar="LABEL", help="of a version that answers a share of the requests")
    group.add_argument("--canary-share", type=float, default=_TRAFFIC.canary_share, help="that share")
    group.add_argument("--shadow", metavar="LABEL", help="of a version that gets copies; its answers are compared")
    group.add_argument("--shadow-share", type=float, default=_TRAFFIC.shadow_share, help="share that is copied")


def _monitoring(options: argparse.Namespace) -> Monitoring | None:
    if not (options.monitor or options.log or options.alerts):
        return None
    # Here, not at the top: the room of servers loads what `kopt --help` does not need.
    from kopt.serve.monitoring.alerts import read_rules  # noqa: PLC0415

    return Monitoring(
        log=options.log,
        max_log_bytes=options.log_bytes,
        sample=options.sample,
        score=options.score,
        rules=() if options.alerts is None else read_rules(options.alerts),
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    settings = ServerSettings(
        max_batch_size=options.max_batch,
        batch_wait_ms=options.batch_wait_ms,
        max_queue=options.max_queue,
        max_examples=options.max_examples,
        max_request_bytes=options.max_request_bytes,
        timeout_s=options.timeout,
        poll_s=options.poll,
        drain_s=options.drain,
        threads=options.threads,
        workers=options.workers,
    )
    server = kopt.serve.Server(
        options.model,
        name=options.name,
        host=options.host,
        port=options.port,
        settings=settings,
        monitoring=_monitoring(options),
        traffic=Traffic(options.main, options.canary, options.canary_share, options.shadow, options.shadow_share),
        safe_mode=not options.unsafe,
    )

    def ready(server: "kopt.serve.Server") -> None:
        if options.json:
            show_text(json.dumps({"url": server.url, "name": server.name}))
        else:
            show_text(f"Serving {server.name} at {server.url}/v1/models/{server.name} (Ctrl-C ends it)")
        sys.stdout.flush()

    server.run(ready)
    return 0
