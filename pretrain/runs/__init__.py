"""Named pretraining runs."""
