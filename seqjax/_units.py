"""Numbers and sizes as short texts with prefixes."""

__all__ = ["readable", "readable_bytes"]


def readable(number: int) -> str:
    """Return a number with a decimal prefix.

    Example:
      >>> readable(1_300_000_000), readable(950)
      ('1.3 G', '950')
    """
    return _scaled(number, 1000, tuple("kMGTPE"), "")


def readable_bytes(size: int) -> str:
    """Return a size with a binary prefix.

    Example:
      >>> readable_bytes(27_472_691), readable_bytes(100)
      ('26.2 MiB', '100 B')
    """
    return _scaled(size, 1024, ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), "B")


def _scaled(number: int, base: int, prefixes: tuple[str, ...], unit: str) -> str:
    value, prefix = float(number), ""
    for larger in prefixes:
        if value < base * 0.9995:
            break
        value, prefix = value / base, larger
    digits = 1 if prefix and value < 99.95 else 0
    return f"{value:.{digits}f} {prefix}{unit}".rstrip()
