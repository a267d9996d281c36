"""Records of runs, written during training and read by everything that compares runs.

`RunDirectory` writes one, `read` reads it as a `Record`, and `find` reads all under some folders; `read_sweep` and
`find_sweeps` do so for sweeps. `groups` puts runs together that differ in nothing but the seed. `read_log` and
`find_logs` read the logs that the authors of logit standardisation publish.

Example:
  >>> import tempfile
  >>> run = RunDirectory(tempfile.mkdtemp())
  >>> run.start({"student": "resnet8", "seed": 3, "method": {"name": "kd"}}, {})
  >>> logger, _ = run.callbacks()
  >>> logger.on_train_begin()
  >>> logger.on_epoch_end(0, {"loss": 2.5, "val_accuracy": 0.75})
  >>> record = read(run.path)
  >>> record.method, record.seed, record.last["val_accuracy"], record.finished
  ('kd', 3, 0.75, False)
"""

from jaxkd.formats.files import sha256
from jaxkd.records.authors import AuthorsLog, find_logs, read_log
from jaxkd.records.directory import RunDirectory, environment, flat, read_json, summary, write_json
from jaxkd.records.groups import Group, differences, groups
from jaxkd.records.reading import find, find_sweeps, read
from jaxkd.records.record import PublishedNumber, Record
from jaxkd.records.sweeps import Grid, SweepRecord, read_sweep
from jaxkd.spread import Curve, Spread

__all__ = [
    "AuthorsLog",
    "Curve",
    "Grid",
    "Group",
    "PublishedNumber",
    "Record",
    "RunDirectory",
    "Spread",
    "SweepRecord",
    "differences",
    "environment",
    "find",
    "find_logs",
    "find_sweeps",
    "flat",
    "groups",
    "read",
    "read_json",
    "read_log",
    "read_sweep",
    "sha256",
    "summary",
    "write_json",
]
