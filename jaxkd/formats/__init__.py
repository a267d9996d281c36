"""Files of weights and arrays, read and written without running code. Nothing here knows a network."""
