"""From a config to the things it names."""

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from huggingface_hub import hf_hub_download
from transformers import AutoConfig, PretrainedConfig

from ..data import ExampleStream, LatentsSource, Source
from ..data.buckets import Size, choose_sizes, fill_buckets
from ..data.latents import read_manifest
from ..fusion import check_fusion
from ..io.files import JsonObject
from ..io.messages import one_sentence
from ..io.precision import Precision
from ..io.resources import resolve_pipeline
from ..models import MODELS, DiffusionTransformer2DModel, SemanticRoutingTransformer2DModel
from ..models.config import VAEConfig
from ..models.latents import LatentCodec, PosteriorCodec
from ..pipelines import SemanticRoutingPipeline
from ..pipelines.loading import check_component
from ..text import TextEncoder
from ..text.config import TextConfig
from ..text.loading import load_language_model_config
from ..text.places import model_digest
from .config import Config

logger = logging.getLogger(__name__)

FUSION_KEYS = ("strategy", "fusion_options", "fusion_source", "num_text_layers", "text_channels", "context_channels")
"""What of a transformer's configuration may differ where only the backbone's weights are taken over."""


class Sizes(NamedTuple):
    """What the transformer must fit to."""

    layers: list[int]
    text_channels: int
    latent_channels: int
    downsampling: int


def resolve_sizes(config: Config) -> Sizes:
    """Asks the config, or else the configurations of text encoder and VAE, without loading weights.

    Of the layers only those remain to which the strategy can give any weight.
    """
    model = config.model
    transformer = MODELS.find(model.kind)
    encoder, language_model = transformer.prompt_encoder_class, language_model_config(config.text)
    layers = encoder.resolve(config.text.layers, language_model)
    layers = transformer.layers_read(layers, model.num_blocks, model.strategy, model.fusion_options)
    channels = encoder.channels(language_model)
    sizes = Sizes(layers, channels, *_latent_sizes(config.vae))
    unit = sizes.downsampling * config.model.patch_size
    sides = {
        "data.image_size": config.data.image_size,
        "validation.width": config.validation.width,
        "validation.height": config.validation.height,
    }
    for name, side in sides.items():
        if side is not None and side % unit:
            raise ValueError(f"{name} {side} is not a multiple of {unit}, a patch's pixels.")
    bucket_sizes(config, sizes)
    return sizes


def bucket_sizes(config: Config, sizes: Sizes) -> list[Size] | None:
    """Widths and heights that pictures are cropped to; None where all are square.

    Raises:
        ValueError: a side does not fit the patches.
    """
    data = config.data
    if data.buckets is None:
        return None
    return choose_sizes(data.buckets, data.image_size, data.bucket_step, sizes.downsampling * config.model.patch_size)


def build_stream(config: Config, source: Source, sizes: Sizes) -> ExampleStream:
    """The stream of a run's examples; the shapes of all pictures are looked at where these make buckets.

    Raises:
        ValueError: the source is not what the config wants of it.
    """
    data, wanted = config.data, bucket_sizes(config, sizes)
    if isinstance(data.source, LatentsSource) and read_manifest(data.source.path).buckets != wanted:
        raise ValueError(f"{data.source.path} was made with other data.buckets, image_size or bucket_step.")
    buckets = None if wanted is None else fill_buckets(source, wanted, data.num_workers)
    if buckets is not None:
        # Latents were cropped when they were computed, and what that cost was said then.
        ahead = isinstance(data.source, LatentsSource)
        logger.info(f"Buckets {buckets.counts()}, as computed ahead." if ahead else buckets.describe())
    return ExampleStream(
        source,
        data.image_size,
        config.training.seed,
        data.caption_dropout,
        data.random_crop,
        data.horizontal_flip,
        data.original_caption_rate,
        buckets,
        config.training.batch_size,
        data.shuffle_window,
    )


def language_model_config(config: TextConfig) -> PretrainedConfig:
    """The language model's `transformers` configuration: from the config if it says enough, else from the model."""
    given = {"num_hidden_layers": config.num_hidden_layers, "hidden_size": config.hidden_size}
    sizes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if config.architecture is not None:
        return AutoConfig.for_model(**{**config.architecture, **sizes})
    if len(sizes) == 2:
        return PretrainedConfig(**sizes)
    return load_language_model_config(config.model)


def _latent_sizes(config: VAEConfig | None) -> tuple[int, int]:
    if config is None:
        return 3, 1
    if config.latent_channels is not None and config.downsampling is not None:
        return config.latent_channels, config.downsampling
    with one_sentence(f"The VAE {config.model}"):
        vae = AutoencoderKL.load_config(config.model, **_subfolder(config))
        return vae["latent_channels"], 2 ** (len(vae["block_out_channels"]) - 1)


def transformer_arguments(config: Config, sizes: Sizes) -> JsonObject:
    """What the transformer's class is called with."""
    return {
        **config.model.arguments(),
        "num_text_layers": len(sizes.layers),
        "text_channels": sizes.text_channels,
        "in_channels": sizes.latent_channels,
        "sample_size": config.data.image_size // sizes.downsampling,
    }


def build_transformer(config: Config, sizes: Sizes) -> DiffusionTransformer2DModel:
    """A freshly initialized diffusion transformer.

    Raises:
        ValueError: sizes or options that do not go together, or a fusion that contradicts what it says of itself.
    """
    transformer = MODELS.find(config.model.kind)(**transformer_arguments(config, sizes))
    if isinstance(transformer, SemanticRoutingTransformer2DModel):
        check_fusion(transformer.fusion, str(config.model.strategy))
    return transformer


def copy_weights(pipeline: str, transformer: DiffusionTransformer2DModel, what: str = "transformer") -> None:
    """Takes over the weights of a saved pipeline's transformer, to train them further.

    Args:
        pipeline: the saved pipeline.
        transformer: what gets the weights.
        what: "transformer"; or "backbone", all but the fusion. The context embedder then comes along where it has the
            same shape, and starts anew where it reads text of another width.

    Raises:
        ValueError: the saved transformer is another one.
    """
    folder = resolve_pipeline(pipeline)
    with one_sentence(f"The transformer of {pipeline}"):
        saved = type(transformer).from_pretrained(
            folder, subfolder="transformer", dtype=torch.float32, use_safetensors=True
        )
    check_component(saved, Path(folder, "transformer"))
    free = {"sample_size", *(FUSION_KEYS if what == "backbone" else ())}
    for key, value in transformer.config.items():
        if key not in free and not key.startswith("_") and saved.config.get(key) != value:
            raise ValueError(f"{pipeline} was made with {key}={saved.config.get(key)!r}; the config says {value!r}.")
    theirs, wanted = (config.context_channels or config.text_channels for config in (saved.config, transformer.config))
    if theirs != wanted:
        raise ValueError(
            f"The blocks of {pipeline} read text of {theirs} channels; the config's read {wanted}: "
            f"set model.context_channels={theirs}."
        )
    weights = saved.state_dict()
    if what == "backbone":
        own = transformer.state_dict()
        wider = weights["context_embedder.linear.weight"].shape != own["context_embedder.linear.weight"].shape
        anew = ("fusion.", "context_embedder.") if wider else ("fusion.",)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(anew)}
        weights |= {name: tensor for name, tensor in own.items() if name.startswith(anew)}
    transformer.load_state_dict(weights)


def build_prompt_encoder(config: Config, sizes: Sizes, device: torch.device) -> TextEncoder:
    """The frozen language model and its tokenizer."""
    text = config.text
    found = load_language_model_config(text.model)
    seen = (found.num_hidden_layers, found.hidden_size)
    wanted = (text.num_hidden_layers or seen[0], text.hidden_size or seen[1])
    if seen != wanted:
        raise ValueError(f"Text encoder {text.model} has {seen} layers and channels; the config says {wanted}.")
    encoder = MODELS.find(config.model.kind).prompt_encoder_class.load(
        text.model,
        getattr(torch, text.dtype),
        layers=sizes.layers,
        instruction=text.instruction,
        chat_template=text.chat_template,
        max_length=text.max_length,
        last_layer=text.last_layer,
    )
    torch.nn.Module.to(encoder.model, device)
    return encoder


def build_codec(config: Config, device: torch.device) -> LatentCodec:
    """The frozen autoencoder, or none."""
    if config.vae is None:
        return LatentCodec()
    dtype = getattr(torch, config.vae.dtype)
    with one_sentence(f"The VAE {config.vae.model}"):
        vae = AutoencoderKL.from_pretrained(
            config.vae.model, dtype=dtype, use_safetensors=True, **_subfolder(config.vae)
        )
    check_component(vae, Path(config.vae.model, config.vae.subfolder or ""))
    codec = LatentCodec(vae.to(device).eval().requires_grad_(False))
    seen = (codec.channels, codec.downsampling)
    wanted = (config.vae.latent_channels or seen[0], config.vae.downsampling or seen[1])
    if seen != wanted:
        raise ValueError(f"VAE {config.vae.model} has {seen} channels and downsampling; the config says {wanted}.")
    return codec


def build_codecs(config: Config, device: torch.device) -> tuple[LatentCodec | PosteriorCodec, LatentCodec]:
    """What a training step makes latents with, and what decodes validation images.

    Where latents were computed ahead, the autoencoder's weights are loaded only if there are validation images.

    Raises:
        ValueError: another autoencoder computed them.
    """
    source = config.data.source
    if not isinstance(source, LatentsSource):
        codec = build_codec(config, device)
        return codec, codec
    made, text = codec_ahead(source, describe_vae(config)), read_manifest(source.path).text
    if text is not None:
        _check_same(source, "features of a text encoder", text, describe_text(config))
    return made, build_codec(config, device) if config.validation.every else LatentCodec()


def codec_ahead(source: LatentsSource, vae: JsonObject) -> PosteriorCodec:
    """What draws latents from what was computed ahead.

    Args:
        source: where it is.
        vae: that must have computed it, see `describe_autoencoder`.

    Raises:
        ValueError: another autoencoder did.
    """
    _check_same(source, "latents of a VAE", read_manifest(source.path).vae, vae)
    return PosteriorCodec(vae["scaling_factor"], vae["shift_factor"])


def _check_same(source: LatentsSource, what: str, computed: JsonObject, wanted: JsonObject) -> None:
    for key, value in wanted.items():
        if computed.get(key) != value:
            raise ValueError(
                f"{source.path} holds {what} with {key}={computed.get(key)!r}; the config's has {value!r}."
            )


def describe_text(config: Config) -> JsonObject:
    """What features of captions depend on beside the captions; loads no weights.

    That is a digest of the language model's files, the layers that are read and how, how prompts are put to it, and the
    precision.
    """
    text = config.text
    return {
        "sha256": model_digest(text.model),
        "layers": resolve_sizes(config).layers,
        "last_layer": text.last_layer,
        "instruction": text.instruction,
        "chat_template": text.chat_template,
        "max_length": text.max_length,
        "dtype": text.dtype,
        "precision": config.training.precision,
    }


def describe_vae(config: Config) -> JsonObject:
    """What latents computed ahead depend on beside the images, see `describe_autoencoder`."""
    return describe_autoencoder(config.vae_ahead(), config.training.precision)


def describe_autoencoder(vae: VAEConfig, precision: Precision) -> JsonObject:
    """A digest of the weights' file, their dtype, the precision that a step computes in, scaling and shift.

    It loads no weights.
    """
    with init_empty_weights(), one_sentence(f"The VAE {vae.model}"):
        options = AutoencoderKL.from_config(AutoencoderKL.load_config(vae.model, **_subfolder(vae))).config
    with _weights_file(vae).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "sha256": digest,
        "dtype": vae.dtype,
        "precision": precision,
        "scaling_factor": options.scaling_factor,
        "shift_factor": options.shift_factor or 0.0,
    }


def _weights_file(config: VAEConfig) -> Path:
    """The autoencoder's weights, fetched where its name is the hub's."""
    if Path(config.model).is_dir():
        return Path(config.model, config.subfolder or "", SAFETENSORS_WEIGHTS_NAME)
    return Path(hf_hub_download(config.model, SAFETENSORS_WEIGHTS_NAME, subfolder=config.subfolder))


def _subfolder(config: VAEConfig) -> dict[str, str]:
    if config.subfolder is None:
        return {}
    # diffusers overlooks a subfolder that is not there if the folder itself holds a model.
    if Path(config.model).is_dir() and not Path(config.model, config.subfolder).is_dir():
        raise ValueError(f"vae.subfolder: {config.model} has no folder {config.subfolder!r}.")
    return {"subfolder": config.subfolder}


def build_pipeline(
    config: Config,
    transformer: DiffusionTransformer2DModel,
    encoder: TextEncoder,
    codec: LatentCodec,
    named: bool = False,
) -> SemanticRoutingPipeline:
    """The pipeline that samples from the transformer; `named` keeps the text encoder's name in place of a copy.

    A text encoder in a folder is named by its absolute path, since a pipeline is loaded from anywhere.
    """
    text_model = Path(config.text.model)
    return SemanticRoutingPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=config.flow.shift),
        text_encoder=None if named else encoder.model,
        tokenizer=None if named else encoder.tokenizer,
        vae=codec.vae,
        text_model=str(text_model.resolve()) if text_model.is_dir() else config.text.model,
        text_layers=encoder.layers,
        instruction=encoder.instruction,
        chat_template=encoder.chat_template,
        max_length=encoder.max_length,
        last_layer=encoder.last_layer,
        default_num_inference_steps=config.validation.num_inference_steps,
        default_guidance_scale=config.validation.guidance_scale,
    )
