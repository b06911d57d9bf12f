"""Make `savedmodels/digits_cnn/1`: the demo's CNN, trained on the packaged digits, in TF Serving's layout."""

import tempfile
from pathlib import Path

import kopt

HERE = Path(__file__).parent


def main() -> None:
    """Train, export and verify the model; replaces what is there."""
    digits = kopt.data.load("digits")
    with tempfile.TemporaryDirectory() as scratch:
        model = kopt.search.demo.train_or_load(digits, Path(scratch) / "digits_cnn.keras")
    kopt.export.saved_model(model, HERE / "digits_cnn" / "1", data=digits.validation.x, overwrite=True)


if __name__ == "__main__":
    main()
