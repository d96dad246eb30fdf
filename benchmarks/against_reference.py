"""A step of sampling with `depth-wise` against the reference implementation itself, with the same weights.

CHECKOUT is a checkout of the paper's code, in whose environment this must run: it needs the versions of `transformers`
and `diffusers` that the code was written for, and this library beside them. The reference's class for `depth-wise` is
AdaFuseDiT in diffusion/models.py; a class of diffusion/configs.py holds its configuration. That class, and the names of
the model's inputs, are not known here, so they are options:

    python -m benchmarks.against_reference CHECKOUT --config diffusion.configs:NAME \\
        --inputs '{"THEIR_NAME": "latents", ...}'

Without `--inputs` the model is called with latents, timestep, text and mask, in this order. Both sides predict from the
same random latents, text and weights, at the sizes of `benchmarks.sampling_reference`. A wrong guess gives no number: a
weight without a place stops the run, and so do predictions that differ by more than one per cent.
"""

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from semantic_routing.interop.constants import ROPE_BASES, reference_config
from semantic_routing.interop.layout import to_reference
from semantic_routing.text import TextFeatures

from . import common
from .models import MAX_LENGTH, Sizes, language_model_config, make_transformer
from .report import Report, Row
from .sampling_reference import ROWS, count, make_text

KIND = "AdaFuseDiT"
INPUTS = ("latents", "timestep", "text", "layers", "mask")


def load_class(checkout: Path, name: str) -> Any:
    """The class `module:NAME` of a checkout.

    Raises:
        ValueError: there is no such module or class.
    """
    if str(checkout.resolve()) not in sys.path:
        sys.path.insert(0, str(checkout.resolve()))
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{checkout} has no {name!r} of the form module:NAME that can be imported: {error}") from error


class Reference:
    """The reference's model with the weights of ours.

    Args:
        ours: a transformer.
        model: the reference's class.
        config: the class of its configuration, made from the entries of a `config.json`.
        text_config: of the language model.
        changes: entries of the configuration that differ.
        inputs: which of `INPUTS` each of the model's arguments is; None passes four of them by their order. "text" is
            one tensor `layers batch text_tokens text_channels`, "layers" the same as a list.
    """

    def __init__(
        self,
        ours: Any,
        model: Any,
        config: Any,
        text_config: dict[str, Any],
        changes: Mapping[str, Any],
        inputs: Mapping[str, str] | None,
    ) -> None:
        wrong = [name for name in (inputs or {}).values() if name not in INPUTS]
        if wrong:
            raise ValueError(f"--inputs has {wrong[0]!r}: expected one of {', '.join(INPUTS)}.")
        self.inputs = inputs
        parameter = ours.proj_out.weight
        self.model = model(config(**{**reference_config(ours, text_config, None), **changes}))
        self.model.load_state_dict(to_reference(ours.state_dict(), ours))
        self.model = self.model.to(parameter.device, parameter.dtype).eval()

    def __call__(self, latents: Tensor, timestep: Tensor, text: TextFeatures) -> Tensor:
        """The prediction."""
        states = text.hidden_states.transpose(0, 1)
        values: dict[str, Any] = {"latents": latents, "timestep": timestep, "text": states, "mask": text.mask.long()}
        if self.inputs is None:
            output = self.model(*values.values())
        else:
            values["layers"] = list(states)
            output = self.model(**{theirs: values[name] for theirs, name in self.inputs.items()})
        return output if isinstance(output, Tensor) else output[0]


@torch.no_grad()
def measure(
    sizes: Sizes,
    make_reference: Callable[[Any], Reference],
    tokens: int,
    steps: int,
    rounds: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Report:
    """Times of our work of a prompt, of our step, and of the reference's step.

    Raises:
        RuntimeError: the two do not predict the same.
    """
    model = make_transformer(sizes, "depth-wise", device, dtype, rope_base=ROPE_BASES[KIND]).eval()
    for logits in model.fusion.parameters():
        torch.nn.init.normal_(logits)  # equal weights would hide that one side reads the layers in another order
    reference = make_reference(model)
    side = sizes.latent_size
    latents = torch.randn(ROWS, sizes.latent_channels, side, side, device=device, dtype=dtype)
    timestep = torch.full((ROWS,), 500.0, device=device)
    text, padded = (
        TextFeatures(states.to(dtype), mask)
        for states, mask in (make_text(sizes, tokens, length, device) for length in (tokens, MAX_LENGTH))
    )

    def prepare() -> Any:
        return model.text_context(model.prepare_text(*text, reused=True), timestep[:1], cache=True)

    context = prepare()
    sides: dict[str, Callable[[], Any]] = {
        "our work of a prompt": prepare,
        "our step": lambda: model(latents, timestep, text_context=context).sample,
        "the reference's step": lambda: reference(latents, timestep, padded),
    }
    distance = common.check_agreement(sides["our step"](), sides["the reference's step"](), 0.01)
    seconds = common.alternate(sides, rounds, device)
    prompts, ours, theirs = seconds.values()
    step, reference_step, whole = count(model, side, tokens, steps)
    what = f"sampling, `depth-wise`, against the reference implementation, {tokens} real tokens of {MAX_LENGTH}: time"
    runs = [prompt + steps * taken for prompt, taken in zip(prompts, ours, strict=True)]
    row = Row(what, "≤ 0.75", common.ratios(runs, [steps * t for t in theirs]), whole / (steps * reference_step))
    flops = {"our step": step, "the reference's step": reference_step}
    notes = [f"A run is counted as {steps} steps; both sides give the same prediction, to {distance:.1e}."]
    return Report(f"{sizes}; {common.name_of(dtype)}", [row], seconds, flops=flops, notes=notes)


def main(
    checkout: Annotated[Path, typer.Argument(help="Of the reference implementation.")],
    config: Annotated[str, typer.Option(help="Class of its configuration, as module:NAME.")],
    model: Annotated[str, typer.Option(help="Class of its transformer, as module:NAME.")] = f"diffusion.models:{KIND}",
    arguments: Annotated[str, typer.Option(help="JSON of configuration entries that differ from ours.")] = "{}",
    inputs: Annotated[
        str | None, typer.Option(help=f"JSON of the model's argument names, each with one of {', '.join(INPUTS)}.")
    ] = None,
    width: common.Width = 2048,
    blocks: common.Blocks = 4,
    text_layers: common.TextLayers = 36,
    tokens: Annotated[int, typer.Option(min=1, max=MAX_LENGTH, help="Of the prompt.")] = 40,
    steps: Annotated[int, typer.Option(min=2, help="Euler steps of the run that is counted.")] = 50,
    rounds: common.Rounds = 7,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    sizes, target = Sizes(width, blocks, text_layers).checked(), common.choose_device(device)
    classes = load_class(checkout, model), load_class(checkout, config)
    text_config = {**language_model_config(sizes).to_dict(), "model_type": "qwen3_vl_text"}

    def make_reference(ours: Any) -> Reference:
        names = None if inputs is None else json.loads(inputs)
        return Reference(ours, *classes, text_config, json.loads(arguments), names)

    measure(sizes, make_reference, tokens, steps, rounds, target, common.fast_dtype()).finish(out, target)


if __name__ == "__main__":
    common.run(main)
