"""Vision-language models that judge images: behind an OpenAI-compatible endpoint, or loaded with `transformers`."""

from .base import JUDGES, Answer, Form, Judge, JudgeOptions, Question
from .yes_no import YES_KINDS, yes_scores

__all__ = ["JUDGES", "YES_KINDS", "Answer", "Form", "Judge", "JudgeOptions", "Question", "yes_scores"]


@JUDGES.register("endpoint")
def _endpoint(options: JudgeOptions) -> Judge:
    from ...io.chat import ChatClient
    from .endpoint import EndpointJudge

    client = ChatClient(
        options.url,
        options.model,
        options.judge_key,
        options.workers,
        options.retries,
        options.timeout,
    )
    return EndpointJudge(client, options.revision)


@JUDGES.register("local")
def _local(options: JudgeOptions) -> Judge:
    from .local import LocalJudge

    return LocalJudge(options.model, options.device, revision=options.revision)
