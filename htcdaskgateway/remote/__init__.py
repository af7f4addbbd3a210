"""What runs where this package is not installed, sent there as text; imports distributed only."""
