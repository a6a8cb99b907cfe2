"""`python -m weightcast` is the command `weightcast`."""

from .command import main

main()
