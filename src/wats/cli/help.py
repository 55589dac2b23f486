"""`wats help`: the beginning of each page of the documentation, in the terminal."""

import textwrap
from importlib.resources import files
from typing import Final

import click
import msgspec
from click.shell_completion import CompletionItem

from wats.cli import COMMANDS, main
from wats.cli.arguments import StrictCommand

_WIDTH: Final = 88


class Topic(msgspec.Struct, frozen=True):
    """A page of the documentation, in short.

    Attributes:
        title: Its title.
        text: Its first paragraphs and examples.
        sections: The titles of its sections.
        url: Its address.
    """

    title: str
    text: str
    sections: list[str]
    url: str


def topics() -> dict[str, Topic]:
    """Return the topics by name, which `docs/generate.py` writes."""
    content = (files("wats.cli") / "topics.json").read_bytes()
    return msgspec.json.decode(content, type=dict[str, Topic])


def complete(_context: click.Context, _parameter: object, incomplete: str) -> list[CompletionItem]:
    """Return the topics and commands that begin with *incomplete*."""
    names = {name: topic.title for name, topic in topics().items()} | dict(COMMANDS)
    return [
        CompletionItem(name, help=line)
        for name, line in names.items()
        if name.startswith(incomplete)
    ]


@click.command(cls=StrictCommand)
@click.argument("topic", required=False, shell_complete=complete)
@click.pass_context
def help(context: click.Context, topic: str | None) -> None:  # noqa: A001  # the command's name
    """Explain TOPIC, which is a subject of the documentation or a command.

    Without TOPIC, all topics are listed.
    """
    every = topics()
    if topic is None:
        click.echo(_overview(every))
    elif topic in every:
        click.echo(_page(every[topic]))
        if topic in COMMANDS:
            click.echo(f"\nThe command of this name: wats {topic} --help")
    elif (command := main.get_command(context, topic)) is not None:
        nested = click.Context(command, info_name=topic, parent=context.parent)
        click.echo(command.get_help(nested))
    else:
        # Without the argument, which may be a secret in the wrong place.
        raise click.UsageError("There is no such topic; 'wats help' lists them.")


def _overview(every: dict[str, Topic]) -> str:
    formatter = click.HelpFormatter(width=_WIDTH)
    formatter.write_text("Show a topic with 'wats help TOPIC', and a command with its name.")
    with formatter.section("Topics"):
        formatter.write_dl([(name, topic.title) for name, topic in every.items()])
    with formatter.section("Commands"):
        formatter.write_dl(list(COMMANDS.items()))
    return formatter.getvalue().rstrip()


def _page(topic: Topic) -> str:
    sections = textwrap.fill(
        ", ".join(topic.sections) + ".",
        _WIDTH,
        initial_indent="Sections: ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    return "\n\n".join([topic.title, topic.text, sections, f"The complete page: {topic.url}"])
