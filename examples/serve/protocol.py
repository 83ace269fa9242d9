"""A parser of HTTP requests that is stricter than that of waitress.

It refuses requests that two servers in a row could read in different ways (two lengths, two hosts,
a folded line), and requests that would fail later. No request ends in an unhandled exception.
"""

import re
from typing import Any

try:
    from waitress.parser import HTTPRequestParser, ParsingError
    from waitress.utilities import RequestEntityTooLarge
except ImportError as error:
    raise ImportError('examples.serve needs waitress: pip install "seqjax[serve]"') from error

__all__ = ["Parser"]

_ONCE = re.compile(rb"^(host|transfer-encoding|content-length|content-type)[ \t]*:", re.I | re.M)
_CHUNKED = re.compile(rb"^transfer-encoding[ \t]*:[ \t]*chunked[ \t]*\r?$", re.I | re.M)
_HOST = re.compile(r"[A-Za-z0-9._~:%\[\]-]*")


class Parser(HTTPRequestParser):
    """A parser of one request.

    Args:
      adj: the settings of waitress.
      unread: a buffer for the bytes after the end of the request.
    """

    def __init__(self, adj: Any, unread: bytearray) -> None:
        super().__init__(adj)
        self.unread = unread

    def received(self, data: bytes) -> int:
        """Parse the bytes of the request, and store the bytes after it in `unread`.

        Args:
          data: the received bytes.

        Returns:
          The number of bytes taken, which is the length of `data`.
        """
        taken = super().received(data)
        announced = getattr(self.body_rcv, "chunk_remainder", 0)
        if self.body_bytes_received + announced >= self.adj.max_request_body_size:
            self.error = RequestEntityTooLarge("")  # answered before the body arrives
            self.completed = True
        if self.error is not None:
            self.expect_continue = False  # do not ask for a body that is refused already
        self.unread += data[taken:]
        return len(data)

    def parse_header(self, header_plus: bytes) -> None:
        """Read the first line and the headers.

        Args:
          header_plus: the first line and the headers.

        Raises:
          ParsingError: the request is not HTTP/1, or can be read in more than one way.
        """
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # a bad URL, or a number with thousands of digits
            raise ParsingError("expected a URL and numbers that can be read") from error
        if self.version not in ("1.0", "1.1"):
            raise ParsingError("expected HTTP/1.0 or HTTP/1.1")
        lines = header_plus.split(b"\r\n")
        if any(line.startswith((b" ", b"\t")) for line in lines):
            raise ParsingError("expected no header that continues on the next line")
        names = [name.lower() for name in _ONCE.findall(header_plus)]
        if len(names) > len(set(names)):
            raise ParsingError("expected Host and the headers of the body once")
        alone = self.chunked and b"content-length" not in names and _CHUNKED.search(header_plus)
        if b"transfer-encoding" in names and not alone:
            raise ParsingError("expected Transfer-Encoding: chunked alone, or Content-Length")
        if self.version == "1.1" and b"host" not in names:
            raise ParsingError("expected a Host header")
        if not _HOST.fullmatch(self.headers.get("HOST", "")):
            raise ParsingError("expected a name or an address as Host")
