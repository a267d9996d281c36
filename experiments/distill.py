"""`jaxkd distill` as a script."""

from jaxkd.command_line import by_other_names, end
from jaxkd.commands import distill

main = by_other_names(distill.main)
several = by_other_names(distill.several)
command_line = by_other_names(distill.command_line)
config_of = by_other_names(distill.config_of)

if __name__ == "__main__":
    end(main, resumable=True)
