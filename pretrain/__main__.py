"""``python -m pretrain``, as ``torchrun -m pretrain`` starts it."""

from pretrain.cli import main

main()
