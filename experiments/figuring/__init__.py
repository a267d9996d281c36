"""The figures of figures.py, a module each: what it measures, how it is drawn, what is said of it."""
