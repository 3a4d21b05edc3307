"""`python -m speechssl`: the same as the `speechssl` command."""

import sys


def run() -> None:
    """Run the command line on the words after the program's name and exit with its code."""
    from speechssl.cli import main

    sys.exit(main())


if __name__ == "__main__":
    run()
