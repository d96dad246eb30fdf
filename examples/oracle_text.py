"""A text encoder that understands everything: one token a claim of scenes, whose features say all that it claims.

    python examples/oracle_text.py runs/comparison/oracle --captions 4000
    sroute train comparison/oracle

No language model is behind it: it is a table of embeddings, one row a claim, with a one for each of the claim's fields
and values (`scenes.ORACLE_FIELDS`). Models that read it are trained with `data.source.wording: claims`. The distance
from a model that reads a language model is all that any fusion of its layers could gain.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from semantic_routing.evaluation.captioned import SEED
from semantic_routing.evaluation.scenes import Scenes
from semantic_routing.scenes import HARD_SKILLS, ORACLE_FIELDS, SKILLS, CaptionPool, oracle_tokens, sample_scene
from semantic_routing.scenes.claims import Claim
from semantic_routing.scenes.oracle import SEPARATOR


def write_oracle(claims: Iterable[Claim], folder: Path) -> None:
    """Writes the encoder: a decoder of which only the embeddings, layer 0, are to be read."""
    by_text = {str(claim): claim for claim in claims}
    ids = oracle_tokens(list(by_text.values()))
    sizes = [len(values) for values in ORACLE_FIELDS.values()]
    width = -(-sum(sizes) // 8) * 8
    table = np.zeros((len(by_text) + 1, width), np.float32)  # row 0 is padding, which says nothing
    for field, start in enumerate(np.cumsum([0, *sizes[:-1]])):
        said = np.flatnonzero(ids[:, field])
        table[said + 1, start + ids[said, field] - 1] = 1
    config = transformers.LlamaConfig(
        vocab_size=len(table),
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    model = transformers.LlamaModel(config)
    with torch.no_grad():
        model.embed_tokens.weight.copy_(torch.from_numpy(table))
    model.save_pretrained(folder)
    # No token stands for unknown claims: they are an error.
    backend = Tokenizer(WordLevel({text: number for number, text in enumerate(["<pad>", *by_text])}))
    backend.pre_tokenizer = Split(SEPARATOR, "removed")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token=None)
    tokenizer.save_pretrained(folder)


def claims_to_know(captions: int, skills: list[str], pictures: int, spacing: int) -> Iterable[Claim]:
    """Those of a pool's captions, of the benchmark's prompts, and of pictures that information is measured on."""
    pool = CaptionPool(captions, skills=skills)
    for plan in pool.plans():
        yield from plan.claims
    for tuning in (False, True):
        for prompt in Scenes(",".join((*SKILLS, *HARD_SKILLS)), tuning=tuning).chosen:
            yield from prompt.claims
    for skill in skills:
        for index in range(pictures):
            yield from sample_scene(SEED, index, "unseen", [skill], spacing=spacing).claims


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the encoder goes")
    parser.add_argument("--captions", type=int, default=4000, help="size of the pool, data.source.captions")
    parser.add_argument("--pictures", type=int, default=256, help="of each skill, for information")
    parser.add_argument("--skills", default=",".join((*SKILLS, *HARD_SKILLS)), help="of the pool, in its order")
    # Where a layout does not fit the grid another scene is drawn, with other claims.
    parser.add_argument("--spacing", type=int, default=4, help="of the pictures, data.source.spacing")
    arguments = parser.parse_args()
    skills = arguments.skills.split(",")
    claims = claims_to_know(arguments.captions, skills, arguments.pictures, arguments.spacing)
    write_oracle(claims, arguments.folder)


if __name__ == "__main__":
    main()
