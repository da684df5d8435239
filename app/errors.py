"""What goes wrong in a function of the page reaches the user as a sentence."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import gradio as gr

from sashimi.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)
INSIDE = "the program failed at this, and has written the reason to its log; please report it"


@contextmanager
def worded(what: str) -> Iterator[None]:
    """For what `in_words` cannot be put around: a function that yields."""
    try:
        yield
    except gr.Error:
        raise
    except (UserError, OSError) as error:
        raise gr.Error(sentence(str(error)), print_exception=False) from None
    except Exception:
        log.exception("%s failed", what)
        raise gr.Error(sentence(INSIDE), print_exception=False) from None


def in_words(function: Callable[P, T]) -> Callable[P, T]:
    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        with worded(function.__name__):
            return function(*args, **kwargs)

    return called


def sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
