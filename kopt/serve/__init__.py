"""What was exported goes to work: a bundle for TF Serving, a local server that speaks its REST API, a client of both.

Everything loads on first use: a client needs no TensorFlow.
"""

import importlib
from typing import Any

_HOMES = {
    "AlertRule": "kopt.core.records.shipping.monitoring",
    "AlertRules": "kopt.core.records.shipping.monitoring",
    "BatchingPlan": "kopt.core.records.shipping.serving",
    "Client": "kopt.serve.client",
    "Monitoring": "kopt.core.records.shipping.monitoring",
    "MonitoringResult": "kopt.serve.monitoring.reporting",
    "RawImage": "kopt.core.records.shipping.serving",
    "Server": "kopt.serve.server",
    "ServerSettings": "kopt.core.records.shipping.serving",
    "Traffic": "kopt.core.records.shipping.monitoring",
    "bundle": "kopt.serve.bundling",
    "compare_versions": "kopt.serve.monitoring.reporting",
    "logged_examples": "kopt.serve.monitoring.reporting",
    "monitoring_report": "kopt.serve.monitoring.reporting",
    "plan_batching": "kopt.serve.batch_planning",
    "read_warmup": "kopt.serve.warming",
    "rollback": "kopt.serve.bundling",
    "serving_state": "kopt.serve.bundling",
    "set_labels": "kopt.serve.bundling",
    "write_profile": "kopt.serve.monitoring.profiles",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kopt.serve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
