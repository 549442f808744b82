"""`python -m tnkit` is the command line, as `tnkit` is."""

from tnkit.cli.app import main

if __name__ == "__main__":
    main()
