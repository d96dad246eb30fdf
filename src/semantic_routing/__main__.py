"""`python -m semantic_routing` is `sroute`, for launchers that start a module, such as `accelerate launch -m`."""

from .cli import main

main()
