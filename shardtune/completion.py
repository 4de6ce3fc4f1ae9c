"""Command line: completion of commands, flags and their values for a shell.

shardtune completion bash

bash: `source <(shardtune completion bash)` in ~/.bashrc. zsh: the same with
zsh, after compinit, in ~/.zshrc. fish: `shardtune completion fish >
~/.config/fish/completions/shardtune.fish`.
"""

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import Setting
from shardtune.commands import COMMANDS
from shardtune.commands import config_class

_BASH = """\
# bash completion of shardtune
_shardtune() {{
  local command=${{COMP_WORDS[1]}} word=${{COMP_WORDS[COMP_CWORD]}}
  local flag="" known=""
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W "{commands}" -- "$word")
    return
  fi
  # bash takes --flag=value for three words.
  if [[ $word == = ]]; then
    flag=${{COMP_WORDS[COMP_CWORD - 1]}} word=
  elif [[ ${{COMP_WORDS[COMP_CWORD - 1]}} == = ]]; then
    flag=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  case $command$flag in
{cases}
  esac
  mapfile -t COMPREPLY < <(compgen -W "$known" -- "$word")
  [[ ${{COMPREPLY[0]-}} != *= ]] || compopt -o nospace 2>/dev/null
}}
complete -o default -F _shardtune shardtune
"""
_ZSH = """\
#compdef shardtune
_shardtune() {{
  if ((CURRENT == 2)); then
    local -a known=({commands})
    _describe command known
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
{cases}
  esac
}}
compdef _shardtune shardtune
"""


def script(shell: str) -> str:
    """Returns the completion script of a shell.

    Args:
        shell: "bash", "zsh" or "fish".

    Raises:
        UsageError: If it is another one.
    """
    if shell not in _SHELLS:
        raise UsageError(
            f"there is no completion for {shell!r}: "
            f"{settings.did_you_mean(shell, _SHELLS)}expected one of "
            f"{', '.join(_SHELLS)}."
        )
    return _SHELLS[shell](
        {
            name: config_class(one.module).settings()
            for name, one in COMMANDS.items()
        }
    )


def _bash(declared: dict[str, list[Setting]]) -> str:
    cases = []
    for name, members in declared.items():
        flags = " ".join(word for one in members for word in _spellings(one))
        cases.append(f'    {name}) known="{flags}" ;;')
        cases += [
            f'    {name}--{one.name}) known="{" ".join(_values(one))}" ;;'
            for one in members
            if one.choices
        ]
    return _BASH.format(commands=" ".join(declared), cases="\n".join(cases))


def _zsh(declared: dict[str, list[Setting]]) -> str:
    cases = []
    for name, members in declared.items():
        lines = [f"    {name}) _arguments \\"]
        for one in members:
            if one.type is bool:
                lines += [f"      {word} \\" for word in _spellings(one)]
            else:
                values = f"({' '.join(_values(one))})"
                action = values if one.choices else "_files"
                lines.append(f"      '--{one.name}=:{one.name}:{action}' \\")
        cases += [*lines, "      '*:file:_files' ;;"]
    commands = " ".join(
        _quoted(f"{name}:{COMMANDS[name].summary}") for name in declared
    )
    return _ZSH.format(commands=commands, cases="\n".join(cases))


def _fish(declared: dict[str, list[Setting]]) -> str:
    lines = ["# fish completion of shardtune"]
    for name, members in declared.items():
        lines.append(
            f"complete -c shardtune -f -n __fish_use_subcommand -a {name} "
            f"-d {_quoted(COMMANDS[name].summary)}"
        )
        start = (
            f"complete -c shardtune -n '__fish_seen_subcommand_from {name}' -l"
        )
        for one in members:
            if one.type is bool:
                lines += [f"{start} {word[2:]}" for word in _spellings(one)]
            elif one.choices:
                values = _quoted(" ".join(_values(one)))
                lines.append(f"{start} {one.name} -x -a {values}")
            else:
                lines.append(f"{start} {one.name} -r")
    return "\n".join([*lines, ""])


def _spellings(one: Setting) -> list[str]:
    if one.type is bool:
        return [f"--{one.name}", f"--no{one.name}"]
    return [f"--{one.name}="]


def _values(one: Setting) -> list[str]:
    return [choice for choice in one.choices if choice]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}


class CompletionConfig(settings.Config):
    """The flags of `shardtune completion`: none."""


def main(config: CompletionConfig, words: list[str]) -> None:
    """Prints the script of the shell that the first word names."""
    print(script(words[0]), end="")


def cli() -> None:
    """Runs the command line."""
    command.run(main, CompletionConfig, positional="bash, zsh or fish")
