"""`jaxkd reproduce` as a script."""

from jaxkd.command_line import by_other_names, end
from jaxkd.commands import reproduce

main = by_other_names(reproduce.main)
command_line = by_other_names(reproduce.command_line)

if __name__ == "__main__":
    end(main)
