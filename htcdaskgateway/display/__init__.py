"""Tables, views and progress of plain data."""
