"""How much memory training steps take, on a GPU or a CPU, and whether that is too much."""

import tensorflow as tf

from kopt.core.memory import available_bytes, peak_resident_bytes, resident_bytes, start_peak

# TensorFlow's CPU allocator took up to 1.5 bytes from the system for a byte it gave out (MLP, CNN, transformer).
_HELD_BACK = 1.5


class MemoryMeter:
    """Measures what TensorFlow has allocated on the device that steps run on, and holds it against a limit.

    On a GPU the limit is one of allocated memory. On a CPU it is one of resident memory, of which the allocator gives
    nothing back: `needed` is what resident memory would be had the process never allocated more than asked about.

    TensorFlow counts allocations on a GPU, and on a CPU with oneDNN, the default on x86, those above 256 KiB. On other
    CPUs resident memory stands for both; there, freed memory goes back to the system before each measurement.

    Attributes:
        device: `"GPU:0"` or `"CPU:0"`.
        limit_bytes: `None` for a GPU without a given limit.
    """

    def __init__(self, limit_bytes: int | None, headroom: float, kept_bytes: int = 0):
        """Find the device and its limit.

        Args:
            limit_bytes: given by the user, or `None`: on a CPU all there is, less a share of `headroom`.
            headroom: share, in [0, 1).
            kept_bytes: allocated by the caller besides the steps; left out of what `start` and `peak` return.
        """
        self.device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
        self._on_cpu = self.device == "CPU:0"
        self._kept = kept_bytes
        self._counts = not self._on_cpu or _counts_on_cpu()
        self._most = self._allocated("peak") if self._counts else 0
        if limit_bytes is None and self._on_cpu:
            limit_bytes = round((1 - headroom) * (resident_bytes() + available_bytes()))
        self.limit_bytes = limit_bytes

    @property
    def limit(self) -> str:
        """The limit in words."""
        return "the device" if self.limit_bytes is None else f"{self.limit_bytes / 2**20:.0f} MiB"

    def start(self) -> int:
        """Forget the peak so far and return the memory allocated now."""
        resident = start_peak() if self._on_cpu else 0
        if not self._counts:
            return resident - self._kept
        tf.config.experimental.reset_memory_stats(self.device)
        return self._allocated("current") - self._kept

    def peak(self) -> int:
        """Return the most memory allocated at one time since `start`."""
        if not self._counts:
            return peak_resident_bytes() - self._kept
        peak = self._allocated("peak")
        self._most = max(self._most, peak)
        return max(0, peak - self._kept)

    def needed(self, peak: int) -> int:
        """Return what to hold against the limit, from what `peak` has returned just now."""
        if not self._on_cpu or not self._counts:
            return peak
        return peak_resident_bytes() - (self._most - peak - self._kept)

    def predict(self, peak: int) -> int:
        """Return what to hold against the limit if the peak came to be `peak`."""
        if not self._on_cpu or not self._counts:
            return peak
        more = peak + self._kept - self._most
        return resident_bytes() + (round(_HELD_BACK * more) if more > 0 else more)

    def exceeds(self, needed: int) -> bool:
        """Return whether that is above the limit."""
        return self.limit_bytes is not None and needed > self.limit_bytes

    def both(self, peak: int, needed: int) -> tuple[int, int | None]:
        """Return what a trial's record has as `peak_memory_bytes` and `resident_bytes`."""
        return peak, (needed if self._on_cpu else None)

    def _allocated(self, which: str) -> int:
        return int(tf.config.experimental.get_memory_info(self.device)[which])


def _counts_on_cpu() -> bool:
    try:
        tf.config.experimental.get_memory_info("CPU:0")
    except ValueError:  # "Allocator stats not available for device"
        return False
    return True
