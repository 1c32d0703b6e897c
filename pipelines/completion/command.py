"""`crossmodal completion`: its argument, and the scripts."""

import contextlib
import importlib
import io
import re
from collections.abc import Sequence

from pipelines import registry
from pipelines.completion.keys import words_of
from pipelines.config.arguments import Parser
from pipelines.config.errors import printable
from pipelines.config.fields import CATALOGUES
from pipelines.config.schema import schema_of
from pipelines.config.trials import TRIALS, has_trials

SHELLS = ("bash", "zsh")

# Prints the words that may follow the words $1 ...; cases are added.
WORDS = r"""_crossmodal_words() {
  local IFS=' '
  case "$* " in
"""
# Gives candidates for the word $1 after the words $2 ..., one a line; of a dotted key, the part up to the next dot.
CANDIDATES = r"""_crossmodal_candidates() {
  local current=$1 word rest
  shift
  _crossmodal_words "$@" | while IFS= read -r word; do
    case $word in
      "$current"*)
        rest=${word#"$current"}
        case $word in
          -*) [ -n "$current" ] || continue ;;
          *=*) case $current in *=*) ;; *) rest=${rest%%=*}= ;; esac ;;
        esac
        case $rest in *=?*) ;; *.?*) rest=${rest%%.*}. ;; esac
        case $current:$rest in *=:) ;; *) printf '%s\n' "$current$rest" ;; esac ;;
    esac
  done | sort -u
}
"""
BASH = r"""_crossmodal() {
  local line=${COMP_LINE:0:COMP_POINT} current=
  local -a words
  read -r -a words <<< "$line"
  if [[ $line != *[[:space:]] ]]; then
    current=${words[${#words[@]}-1]}
    words=("${words[@]:0:${#words[@]}-1}")
  fi
  local IFS=$'\n'
  COMPREPLY=($(_crossmodal_candidates "$current" "${words[@]:1}"))
  if [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then
    COMPREPLY=("${COMPREPLY[@]#"${current%%=*}="}")
  fi
  if [[ ${COMPREPLY[0]} == *[=.] ]]; then
    compopt -o nospace 2> /dev/null
  fi
}
complete -o default -F _crossmodal crossmodal
"""
ZSH = r"""_crossmodal() {
  local -a found
  found=("${(@f)$(_crossmodal_candidates "${words[CURRENT]}" "${(@)words[2,CURRENT-1]}")}")
  if [[ -z ${found[1]} ]]; then
    _files
  elif [[ ${found[1]} == *[=.] ]]; then
    compadd -S '' -a found
  else
    compadd -a found
  fi
}
compdef _crossmodal crossmodal
"""


def completion(words: Sequence[str]) -> int:
    """Prints the script for a shell.

    Raises:
        ConfigError: the words name no shell that is known.
    """
    parser = Parser(
        "completion",
        description="Prints a script with which a shell completes commands, options and config keys.",
        epilog="bash: crossmodal completion bash > ~/.crossmodal.bash, and source that in ~/.bashrc; zsh: crossmodal "
        "completion zsh > ~/.crossmodal.zsh, and source that in ~/.zshrc after compinit. Write it again after an "
        "update, or when CROSSMODAL_PLUGINS names other entries.",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads it")
    asked = parser.read(words)
    if asked is not None:
        print(printable(_words_function() + CANDIDATES + (BASH if asked.shell == "bash" else ZSH)), end="")
    return 0


def _words_function() -> str:
    """A function that prints all words that may follow the words before."""
    kinds = {
        **{kind: catalogue.names() for kind, catalogue in CATALOGUES.items()},
        "pipelines": registry.PIPELINES.names(),
    }
    commands = [*registry.PIPELINES.names(), *registry.TOOLS, "list", "schema", "--help", "--version"]
    cases = {"": commands, "list": [*kinds], "schema": registry.PIPELINES.names(), "completion": SHELLS}
    cases |= {f"list {kind} *": names for kind, names in kinds.items()}
    cases |= {f"{name} *": _options(name) for name in registry.TOOLS if name != "completion"}
    for name in registry.PIPELINES.names():
        pipeline = registry.find_pipeline(name)
        flags = {word for flag in getattr(pipeline, "flags", {}) for word in flag.split()}
        trials = [*TRIALS] if has_trials(pipeline.Config) else []
        cases[name] = [*sorted(flags), "--help"]
        cases[f"{name} *"] = [*words_of(schema_of(name, pipeline)), *trials, *getattr(pipeline, "actions", {})]
    return WORDS + "".join(_case(*each) for each in cases.items()) + "  esac\n}\n"


def _case(before: str, words: Sequence[str]) -> str:
    pattern = before.removesuffix("*").rstrip()
    exact = f"'{pattern} '" if not before.endswith("*") else f"'{pattern} '*"
    return f"    {exact}) printf '%s\\n' {' '.join(map(_quoted, words))} ;;\n" if words else ""


def _options(tool: str) -> list[str]:
    """The options of a command without a config, from its help page."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        getattr(importlib.import_module(registry.TOOLS[tool]), tool)(["--help"])
    return sorted({*re.findall(r"(?<![\w-])--[a-z][\w-]*", page.getvalue())})


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w.=/:,+-]+", word) else "'" + word.replace("'", "'\\''") + "'"
