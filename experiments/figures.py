"""`jaxkd figures` as a script."""

from jaxkd.command_line import by_other_names, end
from jaxkd.commands import figures

main = by_other_names(figures.main)
command_line = by_other_names(figures.command_line)

if __name__ == "__main__":
    end(main)
