"""What libraries raise on damaged files, and how this package says so."""

import lzma
import struct
import tokenize
import zipfile
import zlib

from PIL import Image

# Raised by Pillow, zipfile, numpy's reader and the decompressors, which check little before they read
DAMAGED = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tokenize.TokenError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
MAX_BYTES = 2**30  # of an image file


class CorruptImage(Exception):
    """One image cannot be read; the message is the reason, in one line and without the image's name."""


def one_line(error: BaseException) -> str:
    """The message of an error, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
