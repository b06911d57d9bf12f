"""The part of TensorFlow's graphs that the public API does not give; the only file of costs that touches it.

`tests/unit/profile/test_profile_cost_internals.py` fails when a release changes it.
"""

from typing import Any


def function_graph(operation: Any) -> Any:
    """Return the graph of the function that an operation such as `PartitionedCall` calls."""
    return operation.graph._get_function(operation.get_attr("f").name).graph
