"""`python -m lawful` is the command `lawful`."""

from .cli import main

if __name__ == "__main__":
    main()
