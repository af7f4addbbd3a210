"""What is asked of a cluster's scheduler."""
