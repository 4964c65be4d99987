"""Named fine-tuning runs."""
