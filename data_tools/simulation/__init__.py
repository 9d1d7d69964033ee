"""Simulated studies with known ground truth: what `data_tools.simulate` writes."""
