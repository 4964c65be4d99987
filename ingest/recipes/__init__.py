"""Named recipes: what is done to pixels on the way from a product to a shard."""
