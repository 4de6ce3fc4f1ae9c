"""Writes docs/flags.md from the declared settings of every command.

python -m docs.generate
"""

import pathlib

from data_prep.runtime import setting_help
from data_prep.runtime import settings
from shardtune.commands import COMMANDS
from shardtune.commands import config_class

FILE = pathlib.Path(__file__).with_name("flags.md")
# Commands that jobs start, and that have no name of their own.
INSIDE = {
    "launch.staged": "a training on data and models in object storage",
    "launch.workers": "one training by several processes of this machine",
}
TITLES = {one.module: f"shardtune {name}" for name, one in COMMANDS.items()} | {
    module: f"python -m {module}" for module in INSIDE
}
SUMMARIES = {one.module: one.summary for one in COMMANDS.values()} | INSIDE
HEAD = """\
# Flags

Made by `python -m docs.generate` from the declarations in the code: edit
those, not this page.

A flag is written `--name=value`; one that is true or false also `--name` or
`--noname`. Flags can stand in a file: `--flagfile=FILE`. In Python they are
keyword arguments of the same names, see [python.md](python.md).
"""


def page() -> str:
    """Returns the text of docs/flags.md."""
    sections = [HEAD]
    pages = {
        config_class(module): title
        for module, title in TITLES.items()
        if config_class(module).settings()
    }
    for module, title in TITLES.items():
        declared = config_class(module)
        if declared not in pages:
            continue
        summary = SUMMARIES[module]
        text = f"## {title}\n\n{summary[0].upper()}{summary[1:]}.\n\n"
        own = declared
        for base in declared.__mro__[1:]:
            if base in pages:
                anchor = pages[base].replace(" ", "-")
                text += (
                    f"All flags of [{pages[base]}](#{anchor}), and these:\n\n"
                )
                own = _without(declared, base)
        # Markdown would take them for tags and emphasis.
        table = setting_help.markdown(own).replace("<", "\\<")
        sections.append(text + table.replace(".*", ".\\*") + "\n")
    return "\n".join(sections)


def _without(
    declared: type[settings.Config], base: type[settings.Config]
) -> type[settings.Config]:
    """Returns a config of the groups that a config does not inherit."""
    groups = {
        name: group
        for name, group in declared.groups().items()
        if name not in base.groups()
    }
    return type("Own", (settings.Config,), {"__annotations__": groups})


def main() -> None:
    """Writes the page."""
    FILE.write_text(page())


if __name__ == "__main__":
    main()
