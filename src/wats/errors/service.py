"""Errors of a running application and of its handlers. No I/O."""

from wats.errors.base import WatsError


class Overloaded(WatsError):
    """Requests, bodies or files in flight exceed the budget of the process; retry later."""

    code = "overloaded"
    status = 503
    text = "Too many requests are in flight."


class ReplyError(WatsError):
    """A handler cannot reply to an update; nothing was sent."""


class NoHandlerCall(ReplyError):
    """The code that replies does not run in a handler that a running service called."""

    code = "no_handler_call"
    text = "Only a handler that a running service calls can reply to an update."


class NoMessage(ReplyError):
    """The update has no recipient of a reply: it is not a message that a customer wrote."""

    code = "no_message"
    text = "The update is not a message of a customer, so there is nothing to reply to."


class NotStarted(WatsError):
    """The application is served, but its server has not started it."""

    code = "not_started"
    status = 503
    text = "The service is not started."


class ForkedApplication(WatsError):
    """The application was made by another process, before a fork; both would share counters."""

    code = "forked_application"
    text = (
        "The application was made before a fork. Make it in each process, "
        "or use 'wats serve --workers'."
    )
