"""What sets of finished runs say: scaling laws and tables."""
