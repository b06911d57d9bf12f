"""Policies of mixed precision: chosen, applied, and what has to stay in float32."""
