"""Which files of a tree are images, by name or content, and of what kind those are that are passed over."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from ambient_sweep.data.sources.decode import DAMAGED, pointer

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
# Camera files and scans of slides begin as TIFF or JPEG files do, but hold another picture first
RAW = (".dng", ".nef", ".cr2", ".arw", ".pef", ".srw", ".3fr", ".iiq", ".thm", ".svs", ".ndpi", ".scn")
# What NAS and operating systems write, thumbnails and deleted images among it; hidden names are passed over anyway
SYSTEM = {
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler", "trashbox",
    "lost+found", "lost.dir", "found.000", "system volume information", "network trash folder", "temporary items",
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
SIGNATURES = rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|BM.{4}\0{4}"
PARTS = re.compile(
    "(train|trn|tr|val|vld|valid|validation|validate|dev|development|test|tst|ts|eval|evaluation|hold|held|extra|unlabell?ed)"
    "(ing|set|out|data|val)?"
)


def kind_of(name: str, opened: Callable[[], IO[bytes]]) -> str | None:
    """The kind of a file that is passed over; None for an image, by its ending or else by its first bytes.

    A file that cannot be opened or stands for another may be an image, so it counts as one, which reading finds corrupt.
    """
    lower, kind = name.lower(), place_kind(name)
    if kind is not None or lower.endswith(SUFFIXES):
        return kind
    if not lower.endswith((*ARCHIVES, *RAW)):
        try:
            with opened() as file:
                head = file.read(512)
        except DAMAGED:
            return None
        if re.match(SIGNATURES, head, re.DOTALL) or pointer(head):
            return None
    ending = re.search(r"[^/](\.[a-z]\w{0,9})$", lower, re.ASCII)
    return f"{ending[1] if ending else 'without ending'}{' (not unpacked)' if lower.endswith(ARCHIVES) else ''}"


def place_kind(name: str) -> str | None:
    """The kind of a file that is passed over for its name or for a folder above it."""
    if not SYSTEM.isdisjoint(name.lower().split("/")):
        return "thumbnails, trash or system"
    return "hidden" if any(part.startswith(".") for part in name.split("/")) else None


def printable(name: str) -> str:
    """The name as part of a line."""
    return name if name.isprintable() else repr(name)[1:-1]


def passed_line(passed: Mapping[str, str]) -> str:
    """How many files are passed over, by kind, each with its first name; passed: kinds by name. "" where there are none."""
    first = {kind: printable(name) for name, kind in reversed([*passed.items()])}
    kinds = [f"{count:,} {kind}: {first[kind]}" for kind, count in Counter(passed.values()).most_common()]
    return f"passed over {len(passed):,} files ({'; '.join(kinds[:8])}{'; ...' if kinds[8:] else ''})" if passed else ""


def part_note(names: Sequence[str]) -> str:
    """What to do where the first folders of images are parts of a data set and not classes; "" where they are classes.

    At least two, one of them held out, which are named so in full or are half of all folders: "train" alone may be a class.
    """
    folders = sorted({printable(name.split("/", 1)[0]) for name in names if "/" in name})
    words = {each: re.findall("[A-Z]?[a-z]+|[A-Z]+", each) for each in folders}
    parts = [each for each in folders if any(PARTS.fullmatch(word.lower()) for word in words[each])]
    named = sum(PARTS.fullmatch(each.lower()) is not None for each in folders) > 1
    if not (named or 2 * len(parts) >= max(3, len(folders))) or all("train" in each.lower() for each in parts):
        return ""
    first, *_, last = sorted(parts, key=lambda each: ("train" not in each.lower(), "test" in each.lower()))
    split = f"{{train: {first}, heldout: {last}}}"
    return f"{', '.join(folders[:5])}: parts of a data set, not classes; use them as such by data.split: {split}"
