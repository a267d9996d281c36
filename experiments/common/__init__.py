"""What the scripts that train have in common: from the command line to a `RunConfig`, and from that to a run."""
