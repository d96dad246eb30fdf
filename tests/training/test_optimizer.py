"""Muon and AdamW as one optimizer do what each does alone."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny import TRANSFORMER_SIZES, normal
from torch import nn

from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.training.config import OptimizerConfig
from semantic_routing.training.optimizer import CombinedOptimizer, SharedMuon, build_optimizer, takes_muon


def test_muon_takes_the_matrices_of_attention_and_mlp_alone() -> None:
    model = SemanticRoutingTransformer2DModel("joint", timestep_conditioning="adaln-zero", **TRANSFORMER_SIZES)
    config = OptimizerConfig(learning_rate=1e-3, muon_learning_rate=2e-3)
    adamw, fusion, muon = build_optimizer(config, model).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    taken = {names[parameter] for parameter in muon["params"]}
    projections = ("to_q", "to_k", "to_v", "to_out")
    wanted = {f"self_attention.{name}" for name in projections} | {f"cross_attention.{name}" for name in projections}
    wanted |= {f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    assert taken == {f"blocks.{block}.{name}.weight" for block in range(2) for name in wanted}
    routed = {name for name in names.values() if name.startswith("fusion.")}
    assert {names[parameter] for parameter in adamw["params"]} == set(names.values()) - taken - routed
    assert {names[parameter] for parameter in fusion["params"]} == routed != set()
    assert (muon["lr"], adamw["lr"], fusion["lr"]) == (2e-3, 1e-3, 1e-3)


def test_the_fusion_has_a_rate_of_its_own_and_does_not_decay() -> None:
    model = SemanticRoutingTransformer2DModel("depth-wise", **TRANSFORMER_SIZES)
    config = OptimizerConfig(learning_rate=1e-3, fusion_learning_rate=0.5, weight_decay=0.1)
    optimizer = build_optimizer(config, model)
    with torch.no_grad():
        model.fusion.beta.fill_(1.0)
    weight = model.proj_out.bias
    with torch.no_grad():
        weight.fill_(1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert model.fusion.beta.eq(1.0).all()
    assert weight.allclose(torch.tensor(1 - 1e-3 * 0.1))
    model.fusion.beta.grad = torch.ones_like(model.fusion.beta)
    optimizer.step()
    assert (1.0 - model.fusion.beta).min() > 0.2


def test_together_they_step_as_each_alone() -> None:
    module = nn.Linear(6, 4)
    twin = copy.deepcopy(module)

    def parts(of: nn.Linear) -> list[torch.optim.Optimizer]:
        return [torch.optim.Muon([of.weight], lr=0.1), torch.optim.AdamW([of.bias], lr=0.2)]

    optimizers: list[list[torch.optim.Optimizer]] = [[CombinedOptimizer(parts(module))], parts(twin)]
    for step in range(3):
        for of, steppers in zip((module, twin), optimizers, strict=True):
            of(normal(5, 6) + step).square().sum().backward()
            for optimizer in steppers:
                optimizer.step()
                optimizer.zero_grad()
        # As a checkpoint does when it is loaded.
        optimizers[0][0].load_state_dict(copy.deepcopy(optimizers[0][0].state_dict()))
    assert module.weight.equal(twin.weight)
    assert module.bias.equal(twin.bias)


def test_a_schedule_moves_both_rates() -> None:
    module = nn.Linear(6, 4)
    optimizer = CombinedOptimizer([torch.optim.Muon([module.weight], lr=0.1), torch.optim.AdamW([module.bias], lr=0.2)])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    module(normal(5, 6)).sum().backward()
    optimizer.step()
    schedule.step()
    before = module.weight.detach().clone()
    assert schedule.get_last_lr() == [0.05, 0.1]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert module.weight.equal(before)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("blocks.0.modulation.linear.weight", False),
        ("context_embedder.linear.weight", False),
        ("host.transformer_blocks.0.attn2.to_k.weight", True),  # PixArt, Sana
        ("host.layers.3.feed_forward.linear_1.weight", True),  # Lumina 2
        ("host.transformer_blocks.0.scale_shift_table", False),
        ("host.transformer_blocks.0.norm1.linear.weight", False),  # Flux
        ("host.caption_projection.linear_1.weight", False),
    ],
)
def test_muon_takes_blocks_but_no_modulations_and_tables(name: str, taken: bool) -> None:
    assert takes_muon(name, nn.Parameter(normal(4, 4))) == taken


@pytest.mark.parametrize("shape", [(6, 4), (8, 8), (4, 12)])
def test_muon_in_bfloat16_is_torch_s_and_in_float32_hardly_another(shape: tuple[int, int]) -> None:
    start = normal(*shape)
    moved = {}
    for name, kind in {
        "torch": lambda own: torch.optim.Muon(own, lr=0.1, adjust_lr_fn="match_rms_adamw"),
        "bfloat16": lambda own: SharedMuon(own, lr=0.1),
        "float32": lambda own: SharedMuon(own, lr=0.1, precision="float32"),
    }.items():
        matrix = nn.Parameter(start.clone())
        optimizer = kind([matrix])
        for step in range(3):
            matrix.grad = normal(*shape) * (step + 1) + start
            optimizer.step()
        moved[name] = matrix.detach() - start
    assert moved["bfloat16"].equal(moved["torch"])
    assert not moved["float32"].equal(moved["torch"])
    assert (moved["float32"] - moved["torch"]).norm() < 0.03 * moved["torch"].norm()


def step_in_two_processes(rank: int, folder: Path) -> None:
    """Three steps of the same gradients in each of two processes, with a checkpoint of process 0 between them."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    shapes = [(6, 4), (8, 8), (4, 12), (5, 5), (3, 7)]
    shared, alone = ([nn.Parameter(normal(*shape)) for shape in shapes] for _ in range(2))
    optimizers = [SharedMuon(shared, lr=0.1), torch.optim.Muon(alone, lr=0.1, adjust_lr_fn="match_rms_adamw")]
    for step in range(3):
        for matrices, optimizer in zip((shared, alone), optimizers, strict=True):
            for number, matrix in enumerate(matrices):
                matrix.grad = None if number == step == 1 else normal(*matrix.shape) * (step + 1 + number)
            optimizer.step()
        state = [optimizers[0].state_dict()]
        dist.broadcast_object_list(state, src=0)
        optimizers[0].load_state_dict(state[0])
    torch.save([*shared, *(optimizers[0].state[matrix]["momentum_buffer"] for matrix in shared)], folder / f"{rank}.pt")
    if rank == 0:
        torch.save([*alone, *(optimizers[1].state[matrix]["momentum_buffer"] for matrix in alone)], folder / "alone.pt")
    dist.destroy_process_group()


def test_two_processes_that_share_the_matrices_step_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(step_in_two_processes, (tmp_path,), nprocs=2, start_method="fork")
    first, second, alone = (torch.load(tmp_path / f"{name}.pt") for name in (0, 1, "alone"))
    for tensors in zip(first, second, alone, strict=True):
        assert tensors[0].equal(tensors[1])
        assert tensors[0].equal(tensors[2])
