"""Files that released versions wrote, and how they were made: see README.md here."""
