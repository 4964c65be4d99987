"""Tiles in tar shards: versions, checked reading, and the order of reading as arithmetic."""
