"""Self-supervised learners on radar tiles, and the one loop that trains them."""
