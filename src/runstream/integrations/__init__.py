"""What other programs wrote, and how it becomes runs."""
