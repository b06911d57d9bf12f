"""Optimizers round optimizers, which change rates and momentum as training goes."""
