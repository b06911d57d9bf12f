"""What a server in use is watched by, and what is known of it afterwards: frozen, serialisable."""

import dataclasses

from kopt.core.errors import ConfigError
from kopt.core.records.search.ab_test import ABTest
from kopt.core.records.shipping.drift import DriftProfile, DriftReport
from kopt.core.serialization import Record
from kopt.core.settings import choice, number, whole

SCORES = ("accuracy", "absolute error")
COMPARISONS = ("above", "below")
# What a rule can look at, and its unit.
ALERT_METRICS = {
    "requests_per_s": "requests a second",
    "error_share": "requests answered with 4xx or 5xx, of all",
    "refused_share": "requests answered with 429, of all",
    "latency_p50_ms": "milliseconds of the middle answer with 200",
    "latency_p99_ms": "milliseconds, which one answer with 200 in a hundred exceeds",
    "nonfinite_share": "requests with NaN or infinity among the inputs, of those answered with 200",
    "score": "mean score of the labelled examples",
    "drifted_inputs": "features of the inputs that have drifted",
    "drifted_predictions": "features of the predictions that have drifted",
    "shadow_disagreement": "examples on which the shadow gives another class, of those compared",
}
ALERT_STATES = ("quiet", "pending", "firing", "unknown")
ADVICE = ("retrain", "recalibrate", "label", "check inputs", "look at alerts", "promote", "keep")


@dataclasses.dataclass(frozen=True)
class AlertRule(Record):
    """When to raise an alarm.

    Attributes:
        name: of the alert.
        metric: one of `ALERT_METRICS`.
        comparison: `"above"` or `"below"` the threshold.
        threshold: in the unit of the metric.
        window_s: seconds back that the metric is worked out over.
        for_s: seconds that it has to hold before the alert fires.

    Example:
        >>> rule = kopt.serve.AlertRule("slow", "latency_p99_ms", "above", 50.0, window_s=60.0, for_s=120.0)
        >>> rule.threshold
        50.0
    """

    name: str
    metric: str
    comparison: str
    threshold: float
    window_s: float = 300.0
    for_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("A rule needs a name.")
        choice("metric", self.metric, tuple(ALERT_METRICS))
        choice("comparison", self.comparison, COMPARISONS)
        number("threshold", self.threshold)
        number("window_s", self.window_s, least=0.0, open_below=True)
        number("for_s", self.for_s, least=0.0)


@dataclasses.dataclass(frozen=True)
class AlertRules(Record):
    """Rules as they lie in a JSON file; no two have one name.

    Example:
        >>> rules = kopt.serve.AlertRules((kopt.serve.AlertRule("errors", "error_share", "above", 0.01),))
        >>> kopt.serve.AlertRules.from_json(rules.to_json()) == rules
        True
    """

    rules: tuple[AlertRule, ...]

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"Alert rules need names of their own. Received twice: {', '.join(twice)}.")


@dataclasses.dataclass(frozen=True)
class Alert(Record):
    """State of a rule.

    Attributes:
        name: of the rule.
        state: `"quiet"`, `"pending"` (holds, but not long enough), `"firing"`, or `"unknown"`: nothing to work it out
            from.
        value: of the metric; `None` if unknown.
        since_s: when the state began, on the clock that `evaluate` was given.
    """

    name: str
    state: str
    value: float | None
    since_s: float

    def __post_init__(self) -> None:
        choice("state", self.state, ALERT_STATES)


@dataclasses.dataclass(frozen=True)
class Monitoring(Record):
    """How a local server watches itself; see `kopt.serve.Server`.

    Attributes:
        log: file that gets a line of JSON a request; none is written if `None`.
        max_log_bytes: of the file, before it steps aside as `<log>.1`.
        keep_logs: older files that stay.
        sample: share of requests whose inputs and outputs are kept and held against the profile.
        max_example_bytes: of a request's inputs; of larger ones the features alone are kept.
        recent: examples that drift and score are worked out from, of each version.
        remembered: requests that a label is still taken for.
        score: `"accuracy"`, or `"absolute error"` of outputs that are no classes.
        every_s: seconds between two looks at drift and rules.
        rules: see `AlertRule`.

    Example:
        >>> rule = kopt.serve.AlertRule("drift", "drifted_inputs", "above", 0)
        >>> watched = kopt.serve.Monitoring(log="serve.jsonl", sample=0.1, rules=(rule,))
        >>> with kopt.serve.Server("model.tflite", port=0, monitoring=watched, log=str) as server:
        ...     server.name
        'model'
    """

    log: str | None = None
    max_log_bytes: int = 64 << 20
    keep_logs: int = 4
    sample: float = 1.0
    max_example_bytes: int = 64 << 10
    recent: int = 1000
    remembered: int = 10_000
    score: str = "accuracy"
    every_s: float = 10.0
    rules: tuple[AlertRule, ...] = ()

    def __post_init__(self) -> None:
        whole("max_log_bytes", self.max_log_bytes, least=4096)
        for name in ("keep_logs", "max_example_bytes"):
            whole(name, getattr(self, name), least=0)
        for name in ("recent", "remembered"):
            whole(name, getattr(self, name))
        number("sample", self.sample, least=0.0, most=1.0)
        choice("score", self.score, SCORES)
        number("every_s", self.every_s, least=0.0, open_below=True)
        AlertRules(self.rules)


@dataclasses.dataclass(frozen=True)
class Traffic(Record):
    """Which version answers a request that asks for none.

    Attributes:
        main: label of the version that answers; the newest one if `None`.
        canary: label of a version that answers a share of them instead.
        canary_share: that share. A request with the same id always goes the same way.
        shadow: label of a version that gets copies and whose answers are compared, not returned. It takes its time
            from the same processor.
        shadow_share: share of requests that are copied.

    Example:
        >>> kopt.serve.Traffic(main="stable", canary="next", canary_share=0.1).canary
        'next'
    """

    main: str | None = None
    canary: str | None = None
    canary_share: float = 0.05
    shadow: str | None = None
    shadow_share: float = 1.0

    def __post_init__(self) -> None:
        number("canary_share", self.canary_share, least=0.0, most=1.0)
        number("shadow_share", self.shadow_share, least=0.0, most=1.0)
        named = [label for label in (self.main, self.canary, self.shadow) if label is not None]
        if len(set(named)) != len(named):
            raise ConfigError(f"`main`, `canary` and `shadow` must be different labels. Received: {', '.join(named)}.")


@dataclasses.dataclass(frozen=True)
class MonitoringProfile(Record):
    """What a version met when it was judged; lies beside it as `<version>.profile.json`.

    Attributes:
        sha256: of the file or directory that made the predictions.
        examples: that were looked at.
        inputs, outputs: their distributions.
        score: mean score on labelled examples; `None` without labels.
        score_name: `"accuracy"` or `"absolute error"`.
    """

    sha256: str
    examples: int
    inputs: DriftProfile
    outputs: DriftProfile
    score: float | None = None
    score_name: str = "accuracy"


@dataclasses.dataclass(frozen=True)
class ExampleReference(Record):
    """An example in a log.

    Attributes:
        id: of the request.
        row: of the example in it, counted from 0.
        label: if one came.
        ordinal: which of the requests with this id, counted from 1.
    """

    id: str
    row: int
    label: float | None = None
    ordinal: int = 1


@dataclasses.dataclass(frozen=True)
class Advice(Record):
    """What to do about what was seen.

    Attributes:
        kind: one of `ADVICE`.
        reason: in words, with numbers.
        version: it concerns.
        features: that are the reason.
        examples: to do it with; `kopt.serve.logged_examples` gets their arrays.
    """

    kind: str
    reason: str
    version: int
    features: tuple[str, ...] = ()
    examples: tuple[ExampleReference, ...] = ()

    def __post_init__(self) -> None:
        choice("kind", self.kind, ADVICE)


@dataclasses.dataclass(frozen=True)
class VersionUse(Record):
    """What a log says of one version.

    Attributes:
        version: number.
        requests: that it answered with 200.
        examples: in them.
        p50_ms, p99_ms: of these answers.
        kept: examples whose inputs are in the log.
        labelled: examples with a label.
        score: their mean score; `None` without labels.
        score_low, score_high: 95 % interval of an accuracy.
        inputs, outputs: against the profile; `None` where there is no profile, or too few examples.
        predictions: examples by class, the most frequent first.
        note: why something is missing.
    """

    version: int
    requests: int
    examples: int
    p50_ms: float
    p99_ms: float
    kept: int
    labelled: int
    score: float | None
    score_low: float | None
    score_high: float | None
    inputs: DriftReport | None
    outputs: DriftReport | None
    predictions: dict[str, int]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison(Record):
    """Two versions side by side.

    Attributes:
        how: `"shadow"`: both answered the same examples; `"canary"`: each its own.
        a, b: versions; `a` is the one in use.
        examples: compared; of a canary, that have labels.
        agreement: share on which a shadow gives the same class; `None` of a canary.
        low, high: 95 % interval of the agreement; of a canary, of its accuracy less that of `a`.
        test: on the labelled examples of a shadow; `None` if there are fewer than two.
    """

    how: str
    a: int
    b: int
    examples: int
    agreement: float | None
    low: float | None
    high: float | None
    test: ABTest | None


@dataclasses.dataclass(frozen=True)
class MonitoringReport(Record):
    """What a server's log says.

    Attributes:
        log: path.
        model: name.
        lines: that could be read.
        damaged: that could not, as a kill leaves them.
        runs: starts of the server.
        clock_steps: times that the clock went backwards; durations do not depend on it.
        seconds: that the server was watched, over all runs.
        statuses: answers by HTTP status.
        nonfinite: requests with NaN or infinity among the inputs.
        versions: ascending.
        comparisons: of canaries and shadows.
        alerts: state of each rule at the end.
        fired: times that each alert fired.
        advice: what to do, the most urgent first.
    """

    log: str
    model: str
    lines: int
    damaged: int
    runs: int
    clock_steps: int
    seconds: float
    statuses: dict[str, int]
    nonfinite: int
    versions: tuple[VersionUse, ...]
    comparisons: tuple[Comparison, ...]
    alerts: tuple[Alert, ...]
    fired: dict[str, int]
    advice: tuple[Advice, ...]
