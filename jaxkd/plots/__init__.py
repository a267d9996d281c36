"""Pictures of runs and networks: learning curves, methods side by side, heat maps, scatters.

Each function draws what it is given into the axes or the file it is given, and touches no global state. They need
matplotlib, which is imported only when something is drawn: `pip install "jaxkd[demo]"`.
"""

from jaxkd.plots.canvas import COLOURS, available, canvas, save
from jaxkd.plots.comparisons import comparison, published_vs_ours, stacked_bars
from jaxkd.plots.maps import clusters, heat_map, matrices, scatter
from jaxkd.plots.over_epochs import Runs, curves, learning_curves, temperatures

__all__ = [
    "COLOURS",
    "Runs",
    "available",
    "canvas",
    "clusters",
    "comparison",
    "curves",
    "heat_map",
    "learning_curves",
    "matrices",
    "published_vs_ours",
    "save",
    "scatter",
    "stacked_bars",
    "temperatures",
]
