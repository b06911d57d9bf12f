"""Records, configs, schemes, errors and files: NumPy and the standard library, never TensorFlow."""
