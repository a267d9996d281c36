"""`jaxkd sweep` as a script."""

from jaxkd.command_line import by_other_names, end
from jaxkd.commands import sweep

main = by_other_names(sweep.main)
command_line = by_other_names(sweep.command_line)
config_of = by_other_names(sweep.config_of)

if __name__ == "__main__":
    end(main, resumable=True)
