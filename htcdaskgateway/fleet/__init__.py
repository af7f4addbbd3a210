"""The worker jobs of one cluster, and what users are told of them."""
