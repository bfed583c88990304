"""`python -m loopwright` is the `loopwright` command."""

from loopwright.cli.main import main

if __name__ == "__main__":
    main()
