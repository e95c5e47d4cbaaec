"""`python -m madpipe` is the `madpipe` command."""

from madpipe.cli.main import main

if __name__ == "__main__":
    main()
