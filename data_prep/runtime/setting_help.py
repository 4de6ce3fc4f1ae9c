"""Settings explained: `--help`, and tables for the documents."""

import textwrap

from data_prep.runtime.setting_flags import text
from data_prep.runtime.settings import Config
from data_prep.runtime.settings import Setting

_WIDTH = 80  # characters


def help_text(config_class: type[Config]) -> str:
    """Returns all flags for `--help`.

    First the required ones, then the few that everybody needs, then the
    others by group.
    """
    declared = config_class.settings()
    required = [one for one in declared if one.required]
    usual = [one for one in declared if one.first and not one.required]
    sections = [("Required", required), ("Most used", usual)]
    for title, members in _sections(config_class):
        rest = [one for one in members if not one.first]
        sections.append((title, rest))
    lines = []
    for title, members in sections:
        if members:
            lines += ["", f"{title}:"]
        for one in members:
            lines.append(f"  {_usage(one)}")
            lines += textwrap.wrap(
                f"{_meaning(one)} {_note_of_groups(config_class, one)}",
                _WIDTH,
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
            )
    return "\n".join(lines).lstrip("\n")


def markdown(config_class: type[Config]) -> str:
    """Returns the flags as tables for the documents, one for each section."""
    lines = []
    for title, members in _sections(config_class):
        lines += ["", f"**{title}**", ""]
        lines += ["| flag | default | meaning |", "|---|---|---|"]
        for one in members:
            default = "" if one.default in ("", None) else text(one.default)
            meaning = _meaning(one, default=False)
            whole = f"{meaning} {_note_of_groups(config_class, one)}".rstrip()
            escaped = whole.replace("|", "\\|")
            lines.append(f"| `--{one.name}` | {default} | {escaped} |")
    return "\n".join(lines).lstrip("\n")


def _sections(config_class: type[Config]) -> list[tuple[str, list[Setting]]]:
    """Returns titles with settings, each setting once.

    What stands in several groups is in a section of its own, before the
    first of these groups.
    """
    found = {}
    for group in config_class.groups().values():
        for one in group.settings():
            shared = _note_of_groups(config_class, one)
            found.setdefault(
                one.name, ("Shared" if shared else group.title(), one)
            )
    sections: dict[str, list[Setting]] = {}
    for title, one in found.values():
        sections.setdefault(title, []).append(one)
    return list(sections.items())


def _note_of_groups(config_class: type[Config], setting: Setting) -> str:
    """Returns "For GROUP, GROUP." of a setting that several groups have."""
    names = [
        name
        for name, group in config_class.groups().items()
        if setting.name in {one.name for one in group.settings()}
    ]
    return f"For {', '.join(names)}." if len(names) > 1 else ""


def _usage(one: Setting) -> str:
    if one.type is bool:
        return f"--[no]{one.name}"
    return f"--{one.name}={text(one.default)}"


def _meaning(one: Setting, default: bool = True) -> str:
    parts = [one.help]
    if one.choices:
        parts.append(f"One of {', '.join(c for c in one.choices if c)}.")
    elif one.range:
        parts.append(f"{one.range[0].upper()}{one.range[1:]}.")
    if default and one.type is bool:
        parts.append(f"Default: {text(one.default)}.")
    return " ".join(parts)
