"""Finds the runs of published releases and of BIDS-like trees, and reads what lies beside them."""
