"""Whether a server is fit for runs: what it tells of itself, what it was seen to do, and what is to be changed."""
