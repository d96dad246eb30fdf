"""`python -m semantic_routing` is `sroute`, for launchers that start a module, as `torchrun -m` does."""

from .cli import main

main()
