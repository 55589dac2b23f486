"""Commands whose arguments are checked strictly, and never repeated in an error."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import click
from typing_extensions import override

# 0 is success and 1 is every failure, for scripts; click would exit with 2 for some.
click.UsageError.exit_code = 1


class StrictCommand(click.Command):
    """A command that refuses a repeated option, and names no value in an error.

    A value in the wrong place may be a token, and stderr is kept in logs. Of a repeated option the
    last one would count, which a deployment that adds an option to a script may not intend.
    """

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # of an unfinished command line, which a shell completes
            _check(self, ctx, args)
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter:
            raise
        except click.BadParameter as error:
            if error.param is None or error.param.callback is not None:
                raise  # a message of ours
            reason = f"Must be {_expected(error.param.type)}."
            raise click.BadParameter(reason, ctx=ctx, param=error.param) from None


class StrictGroup(StrictCommand, click.Group):
    """A group of such commands."""

    command_class = StrictCommand
    group_class = type

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        is_known = self.get_command(ctx, name) is not None or ctx.resilient_parsing
        if not is_known and not name.startswith("-"):
            raise click.UsageError(_unknown("command", name, self.list_commands(ctx)), ctx=ctx)
        return super().resolve_command(ctx, args)


def _check(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """Refuse unknown options, repeated options and arguments without a parameter.

    Raises:
        click.UsageError: Without the arguments.
    """
    options = [
        name
        for param in command.get_params(ctx)
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    ]
    try:
        _, rest, order = command.make_parser(ctx).parse_args(list(args))
    except click.NoSuchOption as error:
        raise click.UsageError(_unknown("option", error.option_name, options), ctx=ctx) from None
    for param in _repeated(order):
        hint = param.get_error_hint(ctx)
        raise click.UsageError(f"The option {hint} is given more than once.", ctx=ctx)
    if rest and not ctx.allow_extra_args:
        raise click.UsageError("There is an argument too many.", ctx=ctx)


def _repeated(order: Iterable[click.Parameter]) -> Iterable[click.Parameter]:
    seen: set[int] = set()
    for param in order:
        is_list = isinstance(param, click.Option) and (param.multiple or param.count)
        if id(param) in seen and not is_list:
            yield param
        seen.add(id(param))


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    return f"There is no such {kind}{f'; did you mean {near[0]!r}?' if near else '.'}"


def _expected(kind: Any) -> str:
    match kind:
        case click.Choice():
            return "one of " + ", ".join(repr(str(each)) for each in kind.choices)
        case click.IntRange() | click.FloatRange():
            return f"a number in the range {kind._describe_range()}"
        case _ if kind is click.INT:
            return "a whole number"
        case _:
            return f"a valid {kind.name}"
