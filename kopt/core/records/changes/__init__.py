"""What was done to a model, or what chose it: pruned, clustered, quantized, restructured, taught."""
