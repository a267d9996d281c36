"""The parts of benchmark.py: the driver's, and one side for each library, which runs in processes of its own."""
