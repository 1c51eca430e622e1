"""The history of one run: in Redis, in an archive, or merged from both; and where two histories diverge."""
