"""Layouts of public data sets, as their publishers pack them: which files form a chip and what they mean."""
