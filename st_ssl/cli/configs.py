"""List the configurations that come with st_ssl, for videos and clouds, print one or copy it.

A name of the list is a CONFIG for other commands, or a data set for data=NAME behind it. Files may be named too, such
as README.md, which says what can be configured and which formats data may have.

examples:
  st-ssl configs
  st-ssl configs quickstart/video
  st-ssl configs quickstart/video --output mine.yaml
  st-ssl configs data/ucf101
  st-ssl configs README.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from st_ssl.cli import Parser


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("name", nargs="?", type=Path, metavar="NAME", help="the one to print (default: list them all)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it to this new file instead")
    arguments = parser.parse()
    if arguments.output is not None and arguments.name is None:
        parser.error("--output goes with NAME, of what is to be written")
    return arguments


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.cli.recipes import find_recipe

    if arguments.name is None:
        _list()
        return
    text = find_recipe(arguments.name, own=False).read_text(encoding="utf-8")
    if arguments.output is None:
        print(text, end="")
    else:
        _write(arguments.output, text)


def _list() -> None:
    from textwrap import shorten

    from st_ssl.cli.recipes import headline, recipe_names
    from st_ssl.core.fragments import configs_folder

    names = sorted(recipe_names(), key=lambda name: not name.startswith("quickstart/"))
    width = max(map(len, names))
    others = {"transfer": "finetune CONFIG RUN", "data": "data=NAME behind the CONFIG of either"}
    titles = {name: others.get(name.partition("/")[0], "pretrain CONFIG") for name in names}
    for title in ("pretrain CONFIG", *others.values()):
        print(f"{title}\n")
        for name in (name for name in names if titles[name] == title):
            told = shorten(headline(configs_folder() / f"{name}.yaml"), 120, placeholder=" …")
            print(f"  {name.removeprefix('data/'):{width}}  {told}")
        print()
    print(f"They are in {configs_folder()}")


def _write(output: Path, text: str) -> None:
    from st_ssl.core.errors import OutputError

    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise OutputError(f"--output {output} is there already: choose another name") from error
    except OSError as error:
        raise OutputError(f"--output {output}: cannot be written to: {error.strerror}") from error
    print(output)
