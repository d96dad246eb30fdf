"""In which floating-point type this machine multiplies fast."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from .section import Dtype

Precision = Literal["float32", "bfloat16"]


def fast_precision() -> Precision:
    """bfloat16 where the accelerator, or else the processor, has instructions for it; float32 elsewhere.

    Without them bfloat16 is computed all the same, but a product of matrices takes 20 to 80 times as long: so it is on
    processors with AVX2 alone, which most laptops have.
    """
    import torch  # late, because most configs name their precision

    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        known = accelerator.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    elif hasattr(torch.cpu, "get_capabilities"):
        # AVX-512 BF16, AMX, or what Arm calls theirs
        known = any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    else:  # an older torch
        known = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if known else "float32"


def _known(value: object) -> object:
    return fast_precision() if value == "auto" else value


# A config that says auto is kept with what this machine took, so that a run goes on in the precision it began with.
AutoPrecision = Annotated[
    Precision, BeforeValidator(_known, json_schema_input_type=Literal["auto", "float32", "bfloat16"])
]
AutoDtype = Annotated[
    Dtype, BeforeValidator(_known, json_schema_input_type=Literal["auto", "float32", "bfloat16", "float16"])
]
