"""`python -m scantling` is the command line."""

from scantling.cli.main import main

if __name__ == "__main__":
    main()
