"""`python -m tnkit.cli`."""

from tnkit.cli.app import main

if __name__ == "__main__":
    main()
