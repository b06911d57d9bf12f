"""Kernels whose weights share a few values."""

from kopt.cluster.sharing import Clustering, finalize, weights

__all__ = ["Clustering", "finalize", "weights"]
