"""`python -m jaxkd.convert.write_listing`: brings the package's list of networks up to date with the zoo."""

from __future__ import annotations

import gzip
import json

from jaxkd import models
from jaxkd.convert.listing import FILE, built
from jaxkd.convert.whole_file import whole_file


def main() -> None:
    """Builds every published network and writes down its keys and shapes; the same zoo gives the same bytes."""
    networks = built(models.list())
    entries = [{"names": network.names, "shapes": dict(network.shapes), "pads": network.pads} for network in networks]
    with whole_file(FILE) as file:
        file.write(gzip.compress(json.dumps(entries).encode(), mtime=0))
    print(f"{len(networks)} networks under {len(models.list())} names in {FILE}")


if __name__ == "__main__":
    main()
