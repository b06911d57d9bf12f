"""Models that train with rounded numbers: Functional models that know what was done to them."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kopt.core.records.changes.aware_training import Quantization
from kopt.graph import owned_variables
from kopt.graph.additions import Addition, add
from kopt.graph.internals import FunctionalModel, allow_depth
from kopt.quantize.preserved import Preserved
from kopt.quantize.weights import QuantizedWeights
from kopt.train.held_weights import HoldsWeights

_KEY = "kopt_quantization"


@keras.saving.register_keras_serializable("kopt")
class QuantizedFunctional(HoldsWeights, FunctionalModel):
    """A Functional model whose layers round as TFLite does, with the record of it."""

    # A `Quantization`.
    quantization = Addition()
    # Names that the layers which compute in float have in this model.
    float_layers = Addition()
    # From the names of layers to the paths, in the model that this was made from, of those that they come from.
    sources = Addition()
    # From the places of variables that are not rounded, such as tables, to what updates leave of them.
    preserved = Addition()

    def get_config(self) -> dict[str, Any]:
        """Return the config of the model, and how it is quantized."""
        how = {
            "record": self.quantization.to_json(indent=None),
            "float_layers": list(self.float_layers),
            "sources": dict(self.sources),
            "preserved": list(self.preserved.items()),
            "outputs": list(self.output_names),
        }
        return {**super().get_config(), _KEY: how}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the model; Keras fills in its weights and ranges."""
        config = dict(config)
        how = config.pop(_KEY)
        allow_depth(len(config["layers"]))
        model = super().from_config(config, custom_objects=custom_objects)
        model.remember(Quantization.from_json(how["record"]), how["float_layers"], how["sources"])
        model.preserve(dict(how.get("preserved", ())))
        model.output_names = list(how.get("outputs", model.output_names))
        return model

    def remember(self, record: Quantization, float_layers: Iterable[str], sources: Mapping[str, str]) -> None:
        """Take what was done to the model."""
        add(self, quantization=record, float_layers=tuple(float_layers), sources=dict(sources))

    def preserve(self, what: Mapping[int, str]) -> None:
        """Let updates leave zeros and shared values of variables as they are.

        Args:
            what: by the place of a variable among `owned_variables`, see `what_to_keep`. Loading a model fills in the
                patterns; `take_patterns` takes those of the weights.
        """
        owned = owned_variables(self)
        for place, one in what.items():
            setattr(self, f"preserved_{place}", Preserved(owned[place].variable, one))
        add(self, preserved=dict(what))

    def hold_weights(self) -> None:
        """Let zeros and shared values be what they were."""
        owned = owned_variables(self)
        for place in self.preserved:
            getattr(self, f"preserved_{place}").apply(owned[place].variable)
        for layer in self.layers:
            if isinstance(layer, QuantizedWeights) and layer.preserved:
                layer.record.apply(layer.layer.kernel)

    def take_patterns(self) -> None:
        """Preserve what the weights are now."""
        owned = owned_variables(self)
        for place in self.preserved:
            kernel = owned[place].variable.numpy()
            getattr(self, f"preserved_{place}").take_from(kernel, (kernel.ndim - 1,))


def is_quantized(model: keras.Model) -> bool:
    """Return whether a model was made by `kopt.quantize.aware` or `post_training`."""
    return isinstance(model, QuantizedFunctional)
