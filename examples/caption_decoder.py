"""Trains a small decoder on captions of the embedded world, for deep fusion where no language model can be downloaded.

It knows the captions' words and nothing else. A few minutes on one core:

    python examples/caption_decoder.py runs/decoder
    sroute ablate ablation/decoder --strategies depth-wise,ablation/fusedit --skills single_object,colors
"""

from pathlib import Path

import torch
import typer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tqdm import trange
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from semantic_routing.scenes import sample_scene

START, PADDING, UNKNOWN = "<s>", "<pad>", "<unk>"


def captions(first: int, count: int) -> list[str]:
    """Of the training stream."""
    return [sample_scene(0, index).caption for index in range(first, first + count)]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Whole words in lower case, after a start token that keeps the empty caption from being empty."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=[PADDING, START, UNKNOWN]))
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A", None, [(START, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=START, pad_token=PADDING, unk_token=UNKNOWN
    )


def main(out: Path, steps: int = 1500, batch_size: int = 64) -> None:
    """Writes model and tokenizer to the folder OUT."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(captions(0, 5000))
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in (progress := trange(steps)):
        texts = [f"{caption} {START}" for caption in captions(step * batch_size, batch_size)]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    typer.run(main)
