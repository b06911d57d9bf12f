"""`accelerate` on two replicas gives what it gives on one device."""

import accelerate_on_two_devices
import pytest
from processes import result_of


@pytest.mark.slow
def test_two_replicas_are_as_good_as_one_device():
    results = result_of(accelerate_on_two_devices.main)
    assert len(results) == 6
    for result in results:
        assert result["weights"] < 1e-5, result
        assert all(gap < 1e-5 for gap in result["history"].values()), result
        assert result["updates"][0] == result["updates"][1], result
    # 44 examples in batches of 8 are six batches an epoch, two epochs; the batch with NaN is left out of each.
    updates = {result["case"]: result["updates"][1] for result in results}
    assert updates["plain"] == 12
    assert updates["accumulation with a tail, clipping"] == 4
    assert updates["not finite, clipping by value"] == 10
    history = {result["case"]: set(result["history"]) for result in results}
    assert "val_loss" in history["plain"]
    assert "gradient_norm" in history["loss scaling, gradient norm"]
    assert "skipped_steps" in history["not finite, clipping by value"]


@pytest.mark.slow
def test_the_learning_rate_of_a_fresh_model_on_two_replicas():
    assert result_of(accelerate_on_two_devices.find_rate) >= 10
