"""`kopt.tune`: recipes proposed by keras-tuner, each made, exported and judged as a file."""
