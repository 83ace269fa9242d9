"""Programs over the library, one a task: `python -m examples.pronounce` and so on run them.

`script` holds what all share, `shipped` how each data set is read, `serve` a web application.
"""
