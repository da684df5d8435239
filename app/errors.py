"""What goes wrong in a function of the page reaches the user as a sentence."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import gradio as gr

from sashimi.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)
INSIDE = "the program failed at this, and has written the reason to its log; please report it"


def in_words(function: Callable[P, T]) -> Callable[P, T]:
    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except (UserError, OSError) as error:
            raise gr.Error(sentence(str(error)), print_exception=False) from None
        except Exception:
            log.exception("%s failed", function.__name__)
            raise gr.Error(sentence(INSIDE), print_exception=False) from None

    return called


def sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
