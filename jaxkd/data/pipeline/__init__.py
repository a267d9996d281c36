"""From files to batches: decoding, in worker processes, in an order that a seed fixes."""
