"""What differs from site to site: a file of dask configuration for each, and what puts one in force."""
