"""What one worker needs, and the files of its job."""
