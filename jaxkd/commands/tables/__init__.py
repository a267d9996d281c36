"""What jaxkd reproduce is made of: which runs, their teachers, and the table."""
