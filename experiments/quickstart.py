"""`jaxkd quickstart` as a script."""

from jaxkd.command_line import by_other_names, end
from jaxkd.commands import quickstart

main = by_other_names(quickstart.main)
command_line = by_other_names(quickstart.command_line)

if __name__ == "__main__":
    end(main)
