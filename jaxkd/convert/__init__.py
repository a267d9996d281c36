"""Load and write torch files without torch, and keep models on disk with what they were trained on.

Files are read through an allow-list: a pickle that asks for anything else is refused by name, and nothing of it is run.
`.safetensors` files are read and written as well. `python -m jaxkd.convert` does the same from the shell.
"""

from jaxkd.convert.checkpoint import Pretrained, load, load_pretrained, save
from jaxkd.convert.identify import Candidate, guess
from jaxkd.convert.torch_models import from_torch, to_torch
from jaxkd.convert.weights import load_state_dict, to_state_dict
from jaxkd.formats.files import ConversionError

__all__ = [
    "Candidate",
    "ConversionError",
    "Pretrained",
    "from_torch",
    "guess",
    "load",
    "load_pretrained",
    "load_state_dict",
    "save",
    "to_state_dict",
    "to_torch",
]
