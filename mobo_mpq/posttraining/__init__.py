"""What turns a calibrated network into a good one without training it: biases, rounding, equal channels."""
