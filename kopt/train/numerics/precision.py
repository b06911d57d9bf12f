"""Which numbers a training computes with: a scoped policy, the choice by hardware, and loss scaling."""

import contextlib
from collections.abc import Iterator

import keras

from kopt.core.errors import ConfigError, nearest
from kopt.core.records.training.hardware import Hardware, PrecisionChoice
from kopt.graph.internals import flatten_layers
from kopt.train.distribution.devices import hardware as this_hardware

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
_BFLOAT16_CPU_FLAGS = ("amx_bf16", "avx512_bf16")


@contextlib.contextmanager
def precision(policy: str) -> Iterator[keras.DTypePolicy]:
    """Build layers under a dtype policy inside the block, and have the former one back after it, whatever happens.

    For models that are built anew. An existing model gets another precision with `kopt.train.to_precision`. Keras'
    policy is kept for each thread, so other threads do not see it.

    Args:
        policy: `"float32"`, `"mixed_bfloat16"`, `"mixed_float16"`, or `"auto"` for what `choose_precision` picks.

    Yields:
        The `keras.DTypePolicy` in force. Give the last layer `dtype="float32"`: the loss needs that range.

    Raises:
        ConfigError: an unknown policy.

    Example:
        >>> with kopt.train.precision("mixed_bfloat16"):
        ...     hidden = keras.layers.Dense(64)
        >>> hidden.compute_dtype, keras.config.dtype_policy().name
        ('bfloat16', 'float32')
    """
    name = resolve_policy(policy)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield keras.config.dtype_policy()
    finally:
        keras.config.set_dtype_policy(before)


def resolve_policy(policy: str) -> str:
    """Return the name of the policy that `policy` stands for: itself, or the choice by hardware for `"auto"`.

    Raises:
        ConfigError: an unknown policy. `"float16"` and `"bfloat16"` alone are refused: in Keras they store the weights
            in 16 bits, too, which loses most updates (a step below 1/256 of a bfloat16 weight changes nothing).
    """
    if policy == "auto":
        return choose_precision().policy
    if policy in POLICIES:
        return policy
    if policy in ("float16", "bfloat16"):
        raise ConfigError(
            f"The policy {policy!r} keeps the weights in {policy}, too, so that small updates are lost. Use "
            f"'mixed_{policy}': it computes in {policy} and keeps the weights in float32."
        )
    hint = nearest(str(policy), (*POLICIES, "auto"))
    raise ConfigError(f"Unknown policy {policy!r}.{hint} Accepted: {', '.join(POLICIES)}, auto.")


def choose_precision(hardware: Hardware | None = None) -> PrecisionChoice:
    """Return the policy that trains fastest without losing range, from the hardware alone.

    | hardware | policy | why |
    |---|---|---|
    | TPU | mixed_bfloat16 | its matrix units multiply bfloat16 |
    | GPU, compute capability >= 8.0 | mixed_bfloat16 | tensor cores take it; range of float32, so no loss scaling |
    | GPU, compute capability 7.x | mixed_float16 | tensor cores take float16 only |
    | older or other GPU | float32 | no fast 16-bit arithmetic is known of |
    | CPU with avx512_bf16 or amx_bf16 | mixed_bfloat16 | oneDNN multiplies bfloat16; float16 would be slower |
    | other CPU | float32 | 16-bit arithmetic is emulated |

    Of several GPUs the least capable decides. The CPU rule is measured (EPYC with avx512_bf16, 2 cores, training steps
    without XLA): bfloat16 took 0.44 of the time of float32 for a 1024-wide MLP, 0.79 for a transformer encoder, 0.78 to
    1.02 for a small CNN; float16 took 0.8 to 8 times as long. Very small models gain nothing: `benchmarks/precision.py`
    shows how to measure.

    Args:
        hardware: by default that of this process.

    Example:
        >>> from kopt.core.records.training.hardware import GpuInfo, Hardware
        >>> old_gpu = Hardware(cpu="", cpu_flags=(), gpus=(GpuInfo("Tesla V100", (7, 0)),), tpus=0)
        >>> kopt.train.choose_precision(old_gpu).policy
        'mixed_float16'

    Source:
        NVIDIA, CUDA C++ programming guide, arithmetic instructions by compute capability; TensorFlow, guide "Mixed
        precision"; the CPU rule is measured.
    """
    found = hardware if hardware is not None else this_hardware()
    if found.tpus:
        return PrecisionChoice("mixed_bfloat16", "its matrix units multiply bfloat16", f"TPU, {found.tpus} cores")
    if found.gpus:
        return _for_gpus(found)
    flag = next((flag for flag in _BFLOAT16_CPU_FLAGS if flag in found.cpu_flags), None)
    if flag is not None:
        return PrecisionChoice("mixed_bfloat16", f"it has {flag}, which oneDNN uses for matrix products", found.cpu)
    return PrecisionChoice("float32", "no instruction for 16-bit products is known of it", found.cpu)


def _for_gpus(found: Hardware) -> PrecisionChoice:
    # A GPU without a compute capability sorts first: nothing is known of its 16-bit arithmetic.
    weakest = min(found.gpus, key=lambda gpu: gpu.compute_capability or (0, 0))
    if weakest.compute_capability is None:
        return PrecisionChoice("float32", "its compute capability is not known", weakest.name)
    major, minor = weakest.compute_capability
    capability = f"compute capability {major}.{minor}"
    if major >= 8:
        return PrecisionChoice("mixed_bfloat16", f"{capability}: its tensor cores multiply bfloat16", weakest.name)
    if major == 7:
        reason = f"{capability}: its tensor cores multiply float16, not bfloat16; the loss is scaled"
        return PrecisionChoice("mixed_float16", reason, weakest.name)
    return PrecisionChoice("float32", f"{capability}: tensor cores came with 7.0", weakest.name)


def needs_loss_scaling(model: keras.layers.Layer) -> bool:
    """Return whether a layer of `model`, however deep inside, computes in float16.

    Gradients below 6e-8 become zero in float16, so the loss must be scaled. Keras does so in `compile` only if the
    policy of the model itself is `"mixed_float16"`; layers with a policy of their own, and custom loops, need
    `scaled_optimizer`.

    Example:
        >>> half, _ = kopt.train.to_precision(model, "mixed_float16")
        >>> kopt.train.needs_loss_scaling(model), kopt.train.needs_loss_scaling(half)
        (False, True)
    """
    return any(layer.compute_dtype == "float16" for layer in flatten_layers(model))


def scaled_optimizer(model: keras.layers.Layer, optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return `optimizer` inside a `LossScaleOptimizer` if `model` needs it, else `optimizer` itself.

    An optimizer that scales already, as a `LossScaleOptimizer` or by its own `loss_scale_factor`, is given back as it
    is. Clipping and accumulation belong to the inner optimizer, where they see unscaled gradients.

    Args:
        model: that will be trained.
        optimizer: any Keras optimizer.

    Example:
        >>> half, _ = kopt.train.to_precision(model, "mixed_float16")
        >>> type(kopt.train.scaled_optimizer(half, keras.optimizers.Adam())).__name__
        'LossScaleOptimizer'
        >>> type(kopt.train.scaled_optimizer(model, keras.optimizers.Adam())).__name__
        'Adam'

    Source:
        Micikevicius et al., "Mixed precision training", ICLR 2018.
    """
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor is not None
    if scales or not needs_loss_scaling(model):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
