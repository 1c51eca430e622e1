"""The history of one run: in Redis, in an archive, or merged from both; where two diverge; and what is in it."""
