"""Read and decode batches of images in worker processes, in an order that a seed fixes."""
