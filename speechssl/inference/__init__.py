"""The inference engine: batches, windows of long audio, precision, layers and heads of a frozen model."""
