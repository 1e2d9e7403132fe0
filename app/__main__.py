"""`python -m app …` is `cabinet …`."""

from app.cli import main

main()
