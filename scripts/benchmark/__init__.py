"""What this library does, measured beside what a user would do instead."""
