"""A judge that runs here: any image-text-to-text model of `transformers`."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from ...io.files import JsonObject
from .base import Answer, Form, Judge, Question
from .yes_no import is_no, is_yes

LISTED = 20
"""Alternatives kept beside all that mean yes or no."""


class LocalJudge(Judge):
    """Asks a model on this machine, one question at a time.

    Args:
        name: folder or hub name.
        device: where to compute; None is cuda where there is one.
        dtype: of the weights.
        revision: of the model, where its name is the hub's.
    """

    def __init__(
        self, name: str, device: str | None = None, dtype: str = "bfloat16", revision: str | None = None
    ) -> None:
        self.name = name
        self.revision = revision
        self.dtype = dtype
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def processor(self) -> Any:
        """Makes inputs of texts and images."""
        processors: Any = AutoProcessor
        return processors.from_pretrained(self.name, trust_remote_code=False, **self._pinned)

    @cached_property
    def model(self) -> Any:
        """The model, loaded when it is first asked."""
        models: Any = AutoModelForImageTextToText
        dtype = getattr(torch, self.dtype)
        model = models.from_pretrained(self.name, dtype=dtype, trust_remote_code=False, **self._pinned)
        return model.to(self.device).eval()

    @property
    def identity(self) -> JsonObject:
        """The model's name, revision and precision."""
        return {"judge": "local", "model": self.name, "dtype": self.dtype, **self._pinned}

    @property
    def _pinned(self) -> dict[str, str]:
        return {"revision": self.revision} if self.revision else {}

    def ask(self, questions: Iterable[Question], form: Form) -> Iterator[Answer]:
        """Yields answers in the questions' order."""
        for question in questions:
            inputs = self._inputs(question, form)
            if form.first_token:
                logs = self._first_token(inputs)
                accepted = [(index, float(logs[index])) for index in map(self._first_index, question.accepted)]
                text = self.processor.tokenizer.decode([int(logs.argmax())])
                yield Answer(question.key, text, self._listed(logs), self._about(), accepted)
            else:
                yield Answer(
                    question.key, self._write(inputs, question.temperature, form.max_tokens), about=self._about()
                )

    def _about(self) -> JsonObject:
        return {"model": self.name, "revision": getattr(self.model.config, "_commit_hash", None)}

    def _inputs(self, question: Question, form: Form) -> BatchFeature:
        parts = [{"type": "image"}, {"type": "text", "text": question.text}]
        messages = [{"role": "user", "content": parts if form.image_first else parts[::-1]}]
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = self.processor(images=[question.image], text=[prompt], return_tensors="pt")
        return inputs.to(self.device, self.model.dtype)

    @torch.no_grad()
    def _first_token(self, inputs: BatchFeature) -> Float[Tensor, " vocabulary"]:
        """Log-probabilities of the answer's first token.

        From the forward pass: what `generate` returns may have been altered by the model's generation settings.
        """
        # float32: in half precision the small probabilities of many spellings would not add up.
        return self.model(**inputs).logits[0, -1].float().log_softmax(-1)

    def _listed(self, logs: Float[Tensor, " vocabulary"]) -> list[tuple[str, float]]:
        """The likeliest first tokens and all that mean yes or no, with their log-probabilities, likeliest first."""
        listed = {*logs.topk(min(LISTED, len(logs))).indices.tolist(), *self._yes_no}
        ordered = sorted(listed, key=lambda index: -float(logs[index]))
        return [(self.processor.tokenizer.decode([index]), float(logs[index])) for index in ordered]

    @torch.no_grad()
    def _write(self, inputs: BatchFeature, temperature: float, max_tokens: int) -> str:
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        tokens = self.model.generate(**inputs, max_new_tokens=max_tokens, **sampling)[0]
        new = tokens[inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()

    def _first_index(self, text: str) -> int:
        """The number of the first token of a text's encoding."""
        return int(self.processor.tokenizer.encode(text, add_special_tokens=False)[0])

    @cached_property
    def _yes_no(self) -> list[int]:
        """All tokens that mean yes or no."""
        tokenizer = self.processor.tokenizer
        size = self.model.get_output_embeddings().weight.shape[0]
        words = ((index, tokenizer.decode([index])) for index in range(min(size, len(tokenizer))))
        return [index for index, word in words if is_yes(word) or is_no(word)]
