"""Pictures of runs and networks: learning curves, methods side by side, heat maps, scatters.

Each function draws what it is given into the axes or the file it is given, and touches no global state. They need
matplotlib, which is imported only when something is drawn: `pip install "jaxkd[demo]"`.
"""

from jaxkd.plots.bars import stacked_bars
from jaxkd.plots.canvas import COLOURS, available, canvas, save
from jaxkd.plots.clusters import clusters
from jaxkd.plots.comparison import comparison
from jaxkd.plots.curves import curves
from jaxkd.plots.heat_map import heat_map
from jaxkd.plots.learning_curves import Runs, learning_curves, temperatures
from jaxkd.plots.matrices import matrices
from jaxkd.plots.reached import reached
from jaxkd.plots.scatter import scatter

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
    "reached",
    "save",
    "scatter",
    "stacked_bars",
    "temperatures",
]
