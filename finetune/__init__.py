"""Tasks on top of an encoder: training, honest scores and maps."""
