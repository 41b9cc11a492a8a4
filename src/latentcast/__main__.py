"""`python -m latentcast`."""

from latentcast.cli import main

if __name__ == "__main__":
    main()
