"""Float32 `.tflite` to weights of 4 or 8 bits. Runs in the conversion child process only."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kopt.core.optional import require


def convert(
    float_model: str,
    output: str,
    bits: int,
    keep_float: list[str],
    block_size: int | None = None,
    in_blocks: Sequence[str] = (),
) -> None:
    """Quantize weights, symmetric.

    Scales are per output channel, and activations stay float32. Dense layers in blocks have a scale for each block of
    their inputs, and round what comes in to 8 bits on the fly, as LiteRT's kernels for such weights do.

    Args:
        float_model: the `.tflite` to start from.
        output: path to write.
        bits: of a weight, 4 or 8.
        keep_float: regular expressions; operators whose output tensor matches one keep float32 weights.
        block_size: inputs that share a scale; 32, 64, 128 or 256.
        in_blocks: output tensors of the dense layers that are quantized so.
    """
    quantizer_module = require("ai_edge_quantizer.quantizer", "export of rounded weights")
    recipe = require("ai_edge_quantizer.recipe", "export of rounded weights")
    rules = list(recipe.weight_only_wi4_afp32() if bits == 4 else recipe.weight_only_wi8_afp32())
    rules += [_blockwise(name, block_size) for name in in_blocks]
    rules += [{"regex": pattern, "operation": "*", "algorithm_key": "no_quantize"} for pattern in keep_float]
    quantizer = quantizer_module.Quantizer(float_model)
    quantizer.load_quantization_recipe(rules)
    Path(output).write_bytes(quantizer.quantize().quantized_model)


def _blockwise(output: str, block_size: int | None) -> Any:
    """Return the rule for the dense layer that writes a tensor."""
    manager = require("ai_edge_quantizer.recipe_manager", "int4 export").RecipeManager()
    types = require("ai_edge_quantizer.qtyping", "int4 export")
    manager.add_dynamic_config(
        regex=f"^{re.escape(output)};?$",
        operation_name=types.TFLOperationName.FULLY_CONNECTED,
        num_bits=4,
        granularity=types.QuantGranularity(f"BLOCKWISE_{block_size}"),
    )
    (rule,) = manager.get_quantization_recipe()
    return rule
