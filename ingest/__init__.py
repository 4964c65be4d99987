"""Radar products in, calibrated and despeckled tiles out, in shards with a manifest."""
