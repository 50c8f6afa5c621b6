"""`python -m refinery`, which `accelerate launch -m refinery train SPEC` starts once for each process."""

from refinery.cli import main

main()
