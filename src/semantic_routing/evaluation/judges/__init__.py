"""Vision-language models that judge images: behind an OpenAI-compatible endpoint, or loaded with `transformers`."""

from .asking import AnswerError, Question, ask_all
from .base import Answer, Ask, Form, Judge
from .endpoint import EndpointJudge
from .local import LocalJudge
from .yes_no import YES_KINDS, yes_scores

__all__ = [
    "YES_KINDS",
    "Answer",
    "AnswerError",
    "Ask",
    "EndpointJudge",
    "Form",
    "Judge",
    "LocalJudge",
    "Question",
    "ask_all",
    "yes_scores",
]
