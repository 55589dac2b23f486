"""`python -m wats` is `wats`."""

from wats.cli import main

if __name__ == "__main__":
    main()
