"""Published hyper-parameters as data: trainings, methods, and the accuracies that papers reached with them.

A `Training` is a schedule, a `Method` a weighted sum of losses, and a `Recipe` one accuracy of a paper's table with its
method, pair of networks and training.

Example:
  >>> from jaxkd import recipes
  >>> recipe = recipes.get("ctkd+dkd/resnet56-resnet20")
  >>> recipe.student, recipe.training.epochs, recipe.published.accuracy, recipe.published.deviation
  ('resnet20', 240, 71.65, 0.24)
  >>> training, method = recipes.get_training("repdistiller"), recipes.get_method("kd", temperature=2.0)
  >>> training.epochs, training.drops, method.weights["kd"], method.settings["temperature"]
  (240, (150, 180, 210), 0.9, 2.0)
"""

from jaxkd.recipes.method import Method, Weight
from jaxkd.recipes.methods import get_method, methods
from jaxkd.recipes.published import Published, Recipe, Table, get, names, tables
from jaxkd.recipes.training import Training, get_training, trainings

list = names

__all__ = [
    "Method",
    "Published",
    "Recipe",
    "Table",
    "Training",
    "Weight",
    "get",
    "get_method",
    "get_training",
    "list",
    "methods",
    "names",
    "tables",
    "trainings",
]
