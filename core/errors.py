"""The one exception that people are shown.

    UserError            one sentence: what is wrong and what to do about it
    ├── TooLong          a conversation is longer than one may be, or does not fit into a model's context
    ├── NotEnoughMemory  another model does not fit beside those that are loaded
    └── Unreplayable     a receipt that cannot be run on this machine (other weights, other sampler)

Everything else that is raised is our own mistake and stays an ordinary exception.
"""


class UserError(Exception):
    """A person's mistake or a limit of this machine, in one sentence that says what to do."""


class TooLong(UserError):
    """A conversation is longer than any may be, or does not fit into a model's context; a shorter one may."""


class NotEnoughMemory(UserError):
    """A model does not fit; making room and trying again may help."""


class Unreplayable(UserError):
    """A receipt that is sound but cannot be run here."""
