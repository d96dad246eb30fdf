"""A tiny random host of each class in the table, in its own pipeline, with its own kind of text encoder."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from tiny import normal
from torch import Tensor, nn

from semantic_routing.models.tiny_vae import tiny_vae
from semantic_routing.text.tiny import tiny_tokenizer

LAYERS, CHANNELS, LENGTH = 3, 32, 10
PROMPTS = ["a red circle left of the green star", "two blue squares"]


def tokenizer(length: int = LENGTH) -> Any:
    """One token a word, padded on the right."""
    made = tiny_tokenizer()
    made.padding_side, made.model_max_length = "right", length
    return made


def t5(kind: str = "T5") -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=320, d_model=CHANNELS, d_kv=8, d_ff=48, num_layers=LAYERS, num_heads=4
    )
    return getattr(transformers, f"{kind}EncoderModel")(config)


def clip(channels: int = CHANNELS, projection: bool = False, layers: int = LAYERS) -> nn.Module:
    config = transformers.CLIPTextConfig(
        vocab_size=320, hidden_size=channels, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=channels, eos_token_id=1, pad_token_id=4,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def gemma() -> nn.Module:
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=320, hidden_size=CHANNELS, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, pad_token_id=4,
        )
    )  # fmt: skip


def qwen() -> nn.Module:
    text = {
        "vocab_size": 320, "hidden_size": CHANNELS, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": CHANNELS}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, pad_token_id=4)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


class Templates:
    """A processor as Qwen's, for text alone."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer(64)

    def __call__(self, text: list[str], images: None, videos: None, **options: Any) -> Any:
        return self.tokenizer(text, **options)


class TinyHost(NamedTuple):
    """A pipeline; the model's arguments for prompts, and its arguments for images."""

    pipe: Any
    text: Callable[[Any, list[str]], dict[str, Any]]
    image: Callable[[int], dict[str, Any]]

    @property
    def model(self) -> nn.Module:
        return self.pipe.unet if hasattr(self.pipe, "unet") else self.pipe.transformer

    @property
    def encoder(self) -> nn.Module:
        from semantic_routing.adapters.hosts import find_host

        return getattr(self.pipe, find_host(self.model).encoder)

    def inputs(self, prompts: list[str] = PROMPTS) -> dict[str, Any]:
        with torch.no_grad():
            return {**self.image(len(prompts)), **self.text(self.pipe, prompts)}

    def run(self, prompts: list[str] = PROMPTS) -> Tensor:
        return first(self.model(**self.inputs(prompts), return_dict=False))


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


EULER = diffusers.FlowMatchEulerDiscreteScheduler
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}


def masked(pipe: Any, prompts: list[str], **more: Any) -> dict[str, Any]:
    text, mask, _, _ = pipe.encode_prompt(
        prompts, do_classifier_free_guidance=False, max_sequence_length=LENGTH, device="cpu", **more
    )
    return {"encoder_hidden_states": text, "encoder_attention_mask": mask}


def plain(pipe: Any, prompts: list[str]) -> dict[str, Any]:
    text, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=LENGTH, device="cpu")
    return {"encoder_hidden_states": text}


def pixart() -> TinyHost:
    model = diffusers.PixArtTransformer2DModel(
        **HEADS, in_channels=4, out_channels=8, cross_attention_dim=16, caption_channels=CHANNELS, sample_size=8,
        use_additional_conditions=False,
    )  # fmt: skip
    pipe = diffusers.PixArtSigmaPipeline(tokenizer(), t5(), None, model, diffusers.DPMSolverMultistepScheduler())
    added = {"resolution": None, "aspect_ratio": None}
    return TinyHost(pipe, masked, lambda n: latents(n, 4, 8, 8) | {"added_cond_kwargs": added})


def latents(*shape: int, time: float = 500.0) -> dict[str, Any]:
    return {"hidden_states": normal(*shape, seed=3), "timestep": torch.full((shape[0],), time)}


SANA = {
    **HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
    "cross_attention_dim": 16, "caption_channels": CHANNELS, "sample_size": 8,
}  # fmt: skip


def sana() -> TinyHost:
    pipe = diffusers.SanaPipeline(tokenizer(), gemma(), None, diffusers.SanaTransformer2DModel(**SANA), EULER())
    return TinyHost(
        pipe,
        lambda pipe, prompts: masked(pipe, prompts, complex_human_instruction=["draw the", "draw a"]),
        lambda n: latents(n, 4, 8, 8),
    )


def sana_sprint() -> TinyHost:
    model = diffusers.SanaTransformer2DModel(**SANA, guidance_embeds=True, qk_norm="rms_norm_across_heads")
    pipe = diffusers.SanaSprintPipeline(tokenizer(), gemma(), None, model, diffusers.SCMScheduler())

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        text, mask = pipe.encode_prompt(prompts, max_sequence_length=LENGTH, device="cpu")
        return {"encoder_hidden_states": text, "encoder_attention_mask": mask}

    return TinyHost(pipe, text, lambda n: latents(n, 4, 8, 8, time=0.5) | {"guidance": torch.full((n,), 0.4)})


def hunyuan() -> TinyHost:
    model = diffusers.HunyuanDiT2DModel(
        **HEADS, in_channels=4, patch_size=2, sample_size=8, hidden_size=16, cross_attention_dim=16,
        cross_attention_dim_t5=CHANNELS, pooled_projection_dim=8, text_len=77, text_len_t5=256,
        use_style_cond_and_image_meta_size=False,
    )  # fmt: skip
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    )
    pipe = diffusers.HunyuanDiTPipeline(
        None, bert, tokenizer(77), model, diffusers.DDPMScheduler(prediction_type="v_prediction"), None, None, False,
        t5(), tokenizer(256),
    )  # fmt: skip

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        own, t5s = (
            pipe.encode_prompt(
                prompts, "cpu", torch.float32, do_classifier_free_guidance=False, max_sequence_length=length,
                text_encoder_index=index,
            )
            for index, length in ((0, 77), (1, 256))
        )  # fmt: skip
        names = ("encoder_hidden_states", "text_embedding_mask")
        return {names[0]: own[0], names[1]: own[2], f"{names[0]}_t5": t5s[0], f"{names[1]}_t5": t5s[2]}

    rotary = diffusers.models.embeddings.get_2d_rotary_pos_embed(8, ((0, 0), (4, 4)), (4, 4), output_type="pt")
    return TinyHost(pipe, text, lambda n: latents(n, 4, 8, 8) | {"image_rotary_emb": rotary})


def wan() -> TinyHost:
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, in_channels=4, out_channels=4, text_dim=CHANNELS,
        freq_dim=16, ffn_dim=32,
    )  # fmt: skip
    pipe = diffusers.WanPipeline(tokenizer(), t5("UMT5"), None, EULER(), model)
    return TinyHost(pipe, plain, lambda n: latents(n, 4, 2, 4, 4))


def ltx() -> TinyHost:
    model = diffusers.LTXVideoTransformer3DModel(
        **HEADS, in_channels=4, out_channels=4, cross_attention_dim=16, caption_channels=CHANNELS
    )
    pipe = diffusers.LTXPipeline(EULER(), None, t5(), tokenizer(), model)
    return TinyHost(pipe, masked, lambda n: latents(n, 8, 4) | {"num_frames": 2, "height": 2, "width": 2})


class Trusting:
    """A safety checker, which the pipeline insists on."""

    def to(self, device: Any) -> None:
        pass

    def check_text_safety(self, text: str) -> bool:
        return True


def cosmos() -> TinyHost:
    model = diffusers.CosmosTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, in_channels=4, out_channels=4,
        text_embed_dim=CHANNELS, adaln_lora_dim=4, max_size=(4, 16, 16), concat_padding_mask=False,
        extra_pos_embed_type=None,
    )  # fmt: skip
    pipe = object.__new__(diffusers.Cosmos2TextToImagePipeline)  # its constructor wants a safety checker of the hub
    diffusers.DiffusionPipeline.__init__(pipe)
    pipe.register_modules(
        transformer=model,
        text_encoder=t5(),
        tokenizer=tokenizer(),
        scheduler=EULER(),
        vae=None,
        safety_checker=Trusting(),
    )
    pipe.scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    pipe.vae_scale_factor_spatial = 8
    return TinyHost(pipe, plain, lambda n: latents(n, 4, 1, 4, 4, time=0.5))


def kandinsky() -> TinyHost:
    model = diffusers.Kandinsky5Transformer3DModel(
        in_text_dim=CHANNELS, in_text_dim2=16, time_dim=16, model_dim=24, ff_dim=32, num_text_blocks=1,
        num_visual_blocks=2, axes_dims=(4, 4, 4),
    )  # fmt: skip
    pipe = diffusers.Kandinsky5T2IPipeline(model, None, qwen(), Templates(), clip(16), tokenizer(77), EULER())
    pipe.prompt_template, pipe.prompt_template_encode_start_idx = "draw a draw {}", 3

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        text, pooled, _ = pipe.encode_prompt(prompts, max_sequence_length=LENGTH, device="cpu")
        return {
            "encoder_hidden_states": text, "pooled_projections": pooled, "text_rope_pos": torch.arange(text.shape[1])
        }  # fmt: skip

    positions = [torch.arange(1), torch.arange(2), torch.arange(2)]

    def image(count: int) -> dict[str, Any]:
        return latents(count, 1, 4, 4, 4) | {"visual_rope_pos": positions}

    return TinyHost(pipe, text, image)


UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4, "attention_head_dim": 4,
}  # fmt: skip


def unet_image(count: int) -> dict[str, Any]:
    return {"sample": normal(count, 4, 8, 8, seed=3), "timestep": torch.tensor(500)}


def stable_diffusion() -> TinyHost:
    model = diffusers.UNet2DConditionModel(**UNET, cross_attention_dim=CHANNELS)
    pipe = diffusers.StableDiffusionPipeline(
        None, clip(), tokenizer(), model, diffusers.DDIMScheduler(), None, None, None, False
    )

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        return {"encoder_hidden_states": pipe.encode_prompt(prompts, "cpu", 1, False)[0]}

    return TinyHost(pipe, text, unet_image)


def stable_diffusion_xl() -> TinyHost:
    model = diffusers.UNet2DConditionModel(
        **UNET, cross_attention_dim=16 + CHANNELS, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=CHANNELS + 48,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionXLPipeline(
        None, clip(16, layers=2), clip(projection=True), tokenizer(), tokenizer(), model, diffusers.DDIMScheduler(),
        add_watermarker=False,
    )  # fmt: skip

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        text, _, pooled, _ = pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
        added = {"text_embeds": pooled, "time_ids": torch.ones(len(prompts), 6)}
        return {"encoder_hidden_states": text, "added_cond_kwargs": added}

    return TinyHost(pipe, text, unet_image)


def lumina2() -> TinyHost:
    model = diffusers.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(32, 8, 8), cap_feat_dim=CHANNELS,
    )  # fmt: skip
    pipe = diffusers.Lumina2Pipeline(model, EULER(), None, gemma(), tokenizer())
    return TinyHost(
        pipe, lambda p, prompts: masked(p, prompts, system_prompt="a"), lambda n: latents(n, 4, 4, 4, time=0.5)
    )


def stable_diffusion_3() -> TinyHost:
    model = diffusers.SD3Transformer2DModel(
        **HEADS, sample_size=8, in_channels=4, out_channels=4, joint_attention_dim=CHANNELS, caption_projection_dim=16,
        pooled_projection_dim=16, pos_embed_max_size=8,
    )  # fmt: skip
    pipe = diffusers.StableDiffusion3Pipeline(
        model, EULER(), None, clip(8, True), tokenizer(), clip(8, True), tokenizer(), t5(), tokenizer()
    )

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        text, _, pooled, _ = pipe.encode_prompt(
            prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=LENGTH
        )
        return {"encoder_hidden_states": text, "pooled_projections": pooled}

    return TinyHost(pipe, text, lambda n: latents(n, 4, 8, 8))


def flux() -> TinyHost:
    model = diffusers.FluxTransformer2DModel(
        **HEADS, num_single_layers=2, in_channels=4, joint_attention_dim=CHANNELS, pooled_projection_dim=16,
        axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    pipe = diffusers.FluxPipeline(EULER(), None, clip(16), tokenizer(), t5(), tokenizer(), model)

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        text, pooled, ids = pipe.encode_prompt(prompts, device="cpu", max_sequence_length=LENGTH)
        return {"encoder_hidden_states": text, "pooled_projections": pooled, "txt_ids": ids}

    def image(count: int) -> dict[str, Any]:
        return latents(count, 4, 4, time=0.5) | {"img_ids": places(), "guidance": None}

    return TinyHost(pipe, text, image)


def places() -> Tensor:
    return torch.stack([torch.zeros(4), torch.arange(4) // 2, torch.arange(4) % 2], dim=1)


def chroma(channels: int = 4) -> TinyHost:
    model = diffusers.ChromaTransformer2DModel(
        **HEADS, num_single_layers=2, in_channels=channels, joint_attention_dim=CHANNELS, axes_dims_rope=(4, 2, 2),
        approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1,
    )  # fmt: skip
    pipe = diffusers.ChromaPipeline(EULER(), None, t5(), tokenizer(), model)

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        text, ids, mask, _, _, _ = pipe.encode_prompt(
            prompts, device="cpu", do_classifier_free_guidance=False, max_sequence_length=LENGTH
        )
        mask = pipe._prepare_attention_mask(len(prompts), 4, torch.float32, mask)
        return {"encoder_hidden_states": text, "txt_ids": ids, "attention_mask": mask}

    return TinyHost(pipe, text, lambda n: latents(n, 4, channels, time=0.5) | {"img_ids": places()})


def qwen_image(channels: int = 4) -> TinyHost:
    model = diffusers.QwenImageTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, in_channels=channels, out_channels=channels // 4,
        joint_attention_dim=CHANNELS, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    pipe = diffusers.QwenImagePipeline(EULER(), None, qwen(), tokenizer(64), model)
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "draw a draw {}", 3

    def text(pipe: Any, prompts: list[str]) -> dict[str, Any]:
        text, mask = pipe.encode_prompt(prompts, device="cpu", max_sequence_length=LENGTH)
        return {"encoder_hidden_states": text, "encoder_hidden_states_mask": mask}

    return TinyHost(pipe, text, lambda n: latents(n, 4, channels, time=0.5) | {"img_shapes": [[(1, 2, 2)]] * n})


MAKERS: dict[str, Callable[[], TinyHost]] = {
    "PixArtSigmaPipeline": pixart,
    "SanaPipeline": sana,
    "SanaSprintPipeline": sana_sprint,
    "HunyuanDiTPipeline": hunyuan,
    "WanPipeline": wan,
    "LTXPipeline": ltx,
    "Cosmos2TextToImagePipeline": cosmos,
    "Kandinsky5T2IPipeline": kandinsky,
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "Lumina2Pipeline": lumina2,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
    "ChromaPipeline": chroma,
    "QwenImagePipeline": qwen_image,
}


def make_host(name: str) -> TinyHost:
    """The same weights at every call; none is zero, so that every path can be seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        host = MAKERS[name]()
        for component in host.pipe.components.values():
            if isinstance(component, nn.Module):
                component.eval()
                for parameter in component.parameters():
                    parameter.data += 0.1 * torch.randn_like(parameter)
                    parameter.requires_grad_(False)
    return host


def with_vae(name: str) -> Any:
    """A tiny host with an autoencoder of its own kind, 2 pixels a latent pixel, 8 where the pipeline takes that."""
    pipe = make_host(name).pipe
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name in ("WanPipeline", "Cosmos2TextToImagePipeline"):
            vae, factor = video_vae(), 2
        elif name == "HunyuanDiTPipeline":
            vae, factor = diffusers.AutoencoderKL(**BLOCKS, norm_num_groups=4, latent_channels=4), 8
        else:
            vae, factor = tiny_vae(), 2
    pipe.register_modules(vae=vae.eval())
    for attribute in ("vae_scale_factor", "vae_scale_factor_spatial"):
        if hasattr(pipe, attribute):
            setattr(pipe, attribute, factor)
    pipe.resolutions, pipe.vae_scale_factor_temporal = [(32, 32)], 4
    pipe.set_progress_bar_config(disable=True)
    return pipe


BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8,) * 4,
}  # fmt: skip


VIDEO = {
    "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [False],
    "latents_mean": [0.1, 0.0, -0.2, 0.0], "latents_std": [2.0, 1.0, 0.5, 1.0],
}  # fmt: skip


def video_vae() -> nn.Module:
    return diffusers.AutoencoderKLWan(**VIDEO, scale_factor_spatial=2)


def with_packing_vae(name: str) -> Any:
    """A tiny host whose latents of 4 channels are rows of patches of 2 pixels, with its own kind of autoencoder."""
    if name == "FluxPipeline":
        return with_flux_vae()
    pipe = (chroma if name == "ChromaPipeline" else qwen_image)(16).pipe
    vae = tiny_vae() if name == "ChromaPipeline" else diffusers.AutoencoderKLQwenImage(**VIDEO)
    pipe.register_modules(vae=vae)
    pipe.vae_scale_factor = 2
    return pipe


def with_flux_vae() -> Any:
    """A Flux whose latents of 4 channels are rows of patches of 2 pixels."""
    model = diffusers.FluxTransformer2DModel(
        **HEADS, num_single_layers=2, in_channels=16, joint_attention_dim=CHANNELS, pooled_projection_dim=16,
        axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    return diffusers.FluxPipeline(EULER(), tiny_vae(), clip(16), tokenizer(), t5(), tokenizer(), model)
