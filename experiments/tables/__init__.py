"""What reproduce.py is made of: which runs, their teachers, and the table."""
