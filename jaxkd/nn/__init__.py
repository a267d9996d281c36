"""The layers that models and losses share: convolution, BatchNorm, activations and pooling, stages of blocks."""
