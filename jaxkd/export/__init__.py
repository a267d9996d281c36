"""Export networks: to PyTorch, safetensors, StableHLO, ONNX and LiteRT files.

`write` writes a file, reads it back by the library that will run it, and keeps it only if it computes what `predict`
does. `compare` measures an exported student beside its teacher. `python -m jaxkd.export` does both from the shell.
StableHLO needs `pip install "jaxkd[stablehlo]"`, ONNX `"jaxkd[onnx]"`, LiteRT `"jaxkd[litert]"`.
"""

from jaxkd.export.comparison import Measured, compare, table
from jaxkd.export.formats import Format
from jaxkd.export.hub import push_to_hub
from jaxkd.export.source import Classifier, classifier
from jaxkd.export.written import Exported, ExportError, write

__all__ = [
    "Classifier",
    "ExportError",
    "Exported",
    "Format",
    "Measured",
    "classifier",
    "compare",
    "push_to_hub",
    "table",
    "write",
]
