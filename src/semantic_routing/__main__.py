"""`python -m semantic_routing` is `sroute`, for launchers that start a module: `accelerate launch -m`, `torchrun -m`."""

from .cli import main

main()
