"""What models and losses are built of: convolution, BatchNorm, layers, and stacks of equal blocks."""
