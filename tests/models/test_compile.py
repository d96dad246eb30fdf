"""The repeated block is compiled whole, once for all blocks, not again for every prompt length, and learns the same."""

import subprocess
import sys

# In a process of its own: the compiler cannot look through the run-time checks of shapes.
CODE = """
import torch
from semantic_routing import SemanticRoutingTransformer2DModel

sizes = dict(num_text_layers=3, text_channels=12, num_blocks=3, num_attention_heads=4, num_key_value_heads=2)
sizes |= dict(attention_head_dim=8, hidden_size=24, in_channels=4, sample_size=8, timestep_conditioning="adaln-zero")
eager, compiled = (SemanticRoutingTransformer2DModel("joint", **sizes) for _ in range(2))
torch.manual_seed(0)
for parameter in eager.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
compiled.load_state_dict(eager.state_dict())
graphs = []
# `fullgraph` makes a graph break an error.
compiled.compile_repeated_blocks(backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
latents, times = torch.randn(2, 4, 8, 8), torch.tensor([900.0, 250.0])

@torch.no_grad()
def sampled(model, text, mask):
    context = model.text_context(model.prepare_text(text, mask), times, cache=True)
    return model(latents, times, text_context=context).sample

def trained(model, text, mask):
    model.zero_grad()
    model(latents, times, text, mask).sample.square().mean().backward()
    return model.blocks[1].cross_attention.to_k.weight.grad

for use in (sampled, trained):
    torch._dynamo.reset()
    graphs.clear()
    counts = []
    for short, long in [(4, 6), (7, 9), (3, 5), (2, 21), (30, 40), (16, 16), (1, 2), (63, 64)]:
        inputs = torch.randn(2, 3, long, 12), torch.arange(long) < torch.tensor([[short], [long]])
        torch.testing.assert_close(use(compiled, *inputs), use(eager, *inputs))
        counts.append(len(graphs))
    # The first length is compiled for itself; at the second the compiler takes the length as a variable.
    assert counts == [1, 2, 2, 2, 2, 2, 2, 2], (use.__name__, counts)
"""


def test_the_repeated_block_is_compiled_whole_and_not_for_every_prompt_length() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Of a size at which the compiler once got gradients wrong: tokens lay channels first in memory.
GRADIENTS = """
import torch
from semantic_routing import SemanticRoutingTransformer2DModel

sizes = dict(num_text_layers=2, text_channels=32, num_blocks=2, num_attention_heads=4, num_key_value_heads=4)
sizes |= dict(attention_head_dim=64, hidden_size=256, in_channels=3, patch_size=8, sample_size=32, prediction="sample")
eager, compiled = (
    SemanticRoutingTransformer2DModel("depth-wise", **sizes, timestep_conditioning="adaln-zero") for _ in range(2)
)
torch.manual_seed(0)
for parameter in eager.parameters():
    parameter.data += 0.05 * torch.randn_like(parameter)
compiled.load_state_dict(eager.state_dict())
compiled.compile_repeated_blocks()
inputs = torch.randn(64, 3, 32, 32), 1000 * torch.rand(64), torch.randn(64, 2, 9, 32)
target = torch.randn(64, 3, 32, 32)
for model in (eager, compiled):
    (model(*inputs).sample * target).sum().backward()
for (name, expected), found in zip(eager.named_parameters(), compiled.parameters()):
    largest = float(expected.grad.abs().max())
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-3 * largest, msg=name)
"""


def test_compiled_blocks_have_the_gradients_of_plain_ones() -> None:
    done = subprocess.run([sys.executable, "-c", GRADIENTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
