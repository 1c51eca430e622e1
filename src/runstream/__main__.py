"""``python -m runstream``: the command line, as the console script ``runstream`` starts it."""

from runstream.cli import main

if __name__ == "__main__":
    main()
