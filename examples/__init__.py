"""Example programs, one for each task. `python -m examples.pronounce --help` explains one of them.

`script` contains the code that all scripts share, `examples/shipped` contains the data sets, and
`serve` is a web application.
"""
