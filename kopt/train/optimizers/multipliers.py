"""Learning rates that differ between layers."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from kopt.core.errors import ConfigError, UnsupportedModelError, nearest
from kopt.core.records.training.multipliers import LayerMultiplier, LayerMultipliers
from kopt.core.settings import number
from kopt.graph.internals import flatten_layers
from kopt.graph.layer_names import is_named
from kopt.train import internals
from kopt.train.optimizers.wrapper import OptimizerWrapper, chain

_REGEX = "regex:"
Rules = Mapping[Any, float] | Callable[[keras.layers.Layer], float | None]


@keras.saving.register_keras_serializable(package="kopt")
class LearningRateMultipliers(OptimizerWrapper):
    """An optimizer with its own learning rate for each layer: the common one times a number.

    Use it to fine-tune with small steps near the input, or to freeze layers without compiling again for `trainable`.

    Formula: the update of variable `v` is computed with `learning_rate * multiplier(v)`. So the whole step is
    multiplied, also for optimizers that do not mind the size of the gradient, such as Adam. Decoupled weight decay uses
    the same learning rate, as PyTorch's parameter groups do. A multiplier of 0 leaves the variable and the optimizer's
    slots for it bit for bit; momentum gathered before is not applied.

    Args:
        inner_optimizer: any Keras optimizer but `LossScaleOptimizer`, which goes outside, and `MultiOptimizer`.
        multipliers: numbers of at least 0 by name, or the record that `layer_multipliers` or
            `multipliers_from_gradient_variance` returns. A name is compared with the path of a variable,
            `"model/block/dense/kernel"`:

            - `"dense"`, `"block/dense"`, `"kernel"`, the whole path: names that follow each other in it;
            - `"block?/conv*"`: the same with the wildcards of the shell, of which `*` also spans a `/`;
            - `"regex:conv[12]/"`: a regular expression that is found in it.

            Where several apply, the whole path counts before all, then the last one; where none does, it is 1.
        name: of the optimizer.

    Raises:
        ConfigError: a multiplier is negative or no number, or, when the optimizer is built, a name is in no path.

    Example:
        >>> before = model.get_layer("conv1").get_weights()[0]
        >>> adam = keras.optimizers.Adam(1e-3)
        >>> slow = kopt.train.LearningRateMultipliers(adam, {"conv1": 0.0, "conv2": 0.1})
        >>> model.compile(slow, "sparse_categorical_crossentropy")
        >>> history = model.fit(x_train, y_train, verbose=0)
        >>> bool(np.all(model.get_layer("conv1").get_weights()[0] == before))  # a multiplier of 0 freezes
        True
    """

    def __init__(
        self,
        inner_optimizer: Any,
        multipliers: "Mapping[str, float] | LayerMultipliers",
        *,
        name: str | None = None,
    ):
        given = multipliers.by_variable if isinstance(multipliers, LayerMultipliers) else multipliers
        rules = _checked_rules(given)
        super().__init__(inner_optimizer, name=name)
        base = chain(self)[-1]
        if internals.decays_in_its_own_way(base) and (base.weight_decay or getattr(base, "adam_weight_decay", None)):
            raise ConfigError(
                f"{type(base).__name__} decays the weights in its own way, which multipliers would not reach. Make it "
                f"without weight decay, or use an optimizer with Keras' own, e.g. AdamW."
            )
        self._rules = tuple(rules.items())
        self._factors: tuple[float, ...] = ()
        internals.hook_updates(base, lambda index: self._factors[index])

    @property
    def multipliers(self) -> dict[str, float]:
        """The rules as they were given."""
        return dict(self._rules)

    def prepare(self, variables: list[keras.Variable]) -> None:
        """Find the multiplier of every variable."""
        self._factors = resolve(dict(self._rules), [variable.path for variable in variables])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as Keras serializes them."""
        return {**super().get_config(), "multipliers": self.multipliers}


def resolve(rules: Mapping[str, float], paths: Sequence[str]) -> tuple[float, ...]:
    """Return the multiplier of every path: that of the whole path, of the last rule that applies to it, or 1.

    Raises:
        ConfigError: a rule applies to no path.
    """
    for rule in rules:
        if not any(_applies(rule, path) for path in paths):
            names = dict.fromkeys(name for path in paths for name in (*path.split("/"), path))
            raise ConfigError(
                f"No variable to train has {rule!r} in its path.{nearest(rule, names)} Paths: {', '.join(paths)}."
            )
    backwards = list(rules)[::-1]

    def factor(path: str) -> float:
        whole = next((rule for rule in backwards if _is_whole(rule, path)), None)
        chosen = whole or next((rule for rule in backwards if _applies(rule, path)), None)
        return 1.0 if chosen is None else rules[chosen]

    return tuple(map(factor, paths))


def layer_multipliers(model: keras.Model, rules: Rules) -> LayerMultipliers:
    """Return the multiplier of every trainable variable of `model`, by name, by type or by a function of the layer.

    Args:
        model: built; not changed.
        rules: multipliers by name, as `LearningRateMultipliers` takes them, or by class of layer
            (`{keras.layers.BatchNormalization: 0.0}`: variables inside of such a layer); or a function that is called
            with the innermost layer of each variable and returns its multiplier, or `None` for 1.

    Raises:
        ConfigError: a rule applies to nothing, or a multiplier is negative or no number.

    Example:
        >>> rates = kopt.train.layer_multipliers(model, {keras.layers.BatchNormalization: 0.0, "classes": 2.0})
        >>> {row.variable: row.multiplier for row in rates.rows if row.multiplier != 1}
        {'norm1/gamma': 0.0, 'norm1/beta': 0.0, 'classes/kernel': 2.0, 'classes/bias': 2.0}
        >>> optimizer = kopt.train.LearningRateMultipliers("adam", rates)
    """
    variables = model.trainable_variables
    if not variables:
        raise UnsupportedModelError(f"Model {model.name!r} has no variables to train. Build it, or unfreeze layers.")
    owners = owners_of_variables(model)
    paths = [variable.path for variable in variables]
    if callable(rules):
        factors = [_called(rules, owners[id(variable)][-1]) for variable in variables]
    else:
        factors = _by_rules(dict(rules), variables, owners)
    rows = [
        LayerMultiplier(path, type(owners[id(variable)][-1]).__name__, factor)
        for path, variable, factor in zip(paths, variables, factors, strict=True)
    ]
    return LayerMultipliers(tuple(rows))


def _by_rules(rules: dict[Any, float], variables: Sequence[Any], owners: dict[int, list[Any]]) -> list[float]:
    names = {key: value for key, value in rules.items() if isinstance(key, str)}
    checked: dict[Any, float] = {key: number(_title(key), rules[key], least=0.0) for key in _kinds(rules)}
    checked.update(_checked_rules(names))
    resolve({key: checked[key] for key in names}, [variable.path for variable in variables])
    for kind in _kinds(rules):
        if not any(isinstance(owner, kind) for variable in variables for owner in owners[id(variable)]):
            present = sorted({type(owner).__name__ for found in owners.values() for owner in found})
            raise ConfigError(f"No variable to train is in a {kind.__name__}. Layers: {', '.join(present)}.")

    def factor(variable: Any) -> float:
        if variable.path in checked:
            return checked[variable.path]
        for rule in list(rules)[::-1]:
            if isinstance(rule, str):
                if _applies(rule, variable.path):
                    return checked[rule]
            elif any(isinstance(owner, rule) for owner in owners[id(variable)]):
                return checked[rule]
        return 1.0

    return [factor(variable) for variable in variables]


def _kinds(rules: Mapping[Any, float]) -> list[type]:
    kinds = [key for key in rules if not isinstance(key, str)]
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, keras.layers.Layer)):
            raise ConfigError(f"A rule is a name or a class of layer. Received: {kind!r}.")
    return kinds


def owners_of_variables(model: keras.Model) -> dict[int, list[keras.layers.Layer]]:
    """Return the layers around each trainable variable, outermost first, by `id` of the variable."""
    owners: dict[int, list[Any]] = {}
    for layer in flatten_layers(model):
        for variable in layer.trainable_variables:
            owners.setdefault(id(variable), []).append(layer)
    return owners


def _called(function: Callable[[keras.layers.Layer], float | None], layer: keras.layers.Layer) -> float:
    value = function(layer)
    return 1.0 if value is None else number(f"multiplier of layer {layer.name!r}", value, least=0.0)


def _checked_rules(rules: Any) -> dict[str, float]:
    if not isinstance(rules, Mapping) or any(not isinstance(key, str) for key in rules):
        raise ConfigError(
            f"`multipliers` must be numbers by name, e.g. {{'dense': 0.1}}. For classes of layers or a function, pass "
            f"what `kopt.train.layer_multipliers(model, rules)` returns. Received: {rules!r}."
        )
    for rule in rules:
        if rule.startswith(_REGEX):
            try:
                re.compile(rule[len(_REGEX) :])
            except re.error as error:
                raise ConfigError(f"{rule!r} is no regular expression: {error}.") from None
    return {rule: number(_title(rule), value, least=0.0) for rule, value in rules.items()}


def _title(rule: Any) -> str:
    return f"multiplier of {rule if isinstance(rule, str) else rule.__name__}"


def _is_whole(rule: str, path: str) -> bool:
    # While Keras loads a Sequential model, its own name is not in the paths yet.
    return path in (rule, rule.partition("/")[2])


def _applies(rule: str, path: str) -> bool:
    if rule.startswith(_REGEX):
        return re.search(rule[len(_REGEX) :], path) is not None
    return is_named(path, rule) or _is_whole(rule, path)
