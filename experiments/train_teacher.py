"""`jaxkd train` as a script."""

from jaxkd.command_line import by_other_names, end
from jaxkd.commands import train

main = by_other_names(train.main)
command_line = by_other_names(train.command_line)
config_of = by_other_names(train.config_of)

if __name__ == "__main__":
    end(main, resumable=True)
