"""Training under a launcher: `accelerate launch -m semantic_routing.train CONFIG`, or `torchrun -m` the same.

It is `sroute train` with its arguments, as a module, which is what launchers start on every device.
"""

import sys

from .cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
