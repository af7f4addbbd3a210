"""What the command ``setup_condor`` is made of, a job a module."""
