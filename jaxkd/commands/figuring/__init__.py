"""The figures of jaxkd figures, a module each: what it measures, how it is drawn, what is said of it."""
