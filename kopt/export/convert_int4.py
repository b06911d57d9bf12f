"""Float32 `.tflite` to 4-bit weights. Runs in the conversion child process only."""

from pathlib import Path

from kopt.core.optional import require


def convert(float_model: str, output: str, keep_float: list[str]) -> None:
    """Quantize weights to 4 bits, per output channel and symmetric; activations stay float32.

    Args:
        float_model: the `.tflite` to start from.
        output: path to write.
        keep_float: regular expressions; operators whose output tensor matches one keep float32 weights.
    """
    quantizer_module = require("ai_edge_quantizer.quantizer", "int4 export")
    recipe = require("ai_edge_quantizer.recipe", "int4 export")
    quantizer = quantizer_module.Quantizer(float_model)
    quantizer.load_quantization_recipe(
        [
            *recipe.weight_only_wi4_afp32(),
            *({"regex": pattern, "operation": "*", "algorithm_key": "no_quantize"} for pattern in keep_float),
        ]
    )
    Path(output).write_bytes(quantizer.quantize().quantized_model)
