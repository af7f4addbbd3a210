"""The templates of the job, its script and HTCondor's configuration, as package data."""
