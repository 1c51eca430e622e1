"""What an operator does to put a namespace or an archive right: verify, restore, resolve."""
