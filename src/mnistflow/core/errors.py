"""The errors that a user can correct."""

import re


class WorkflowError(Exception):
    """An error that the user can correct. Its message is one sentence and is shown without a traceback."""


def without_password(text: str) -> str:
    """The text with the password of each address in it replaced by ***."""
    return re.sub(r"(://[^/@:\s]*):\S*@", r"\1:***@", text)  # up to the last @: a password may hold one, or a /
