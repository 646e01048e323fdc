"""Checking images, and repairing them on request."""

from __future__ import annotations

from pathlib import Path

from asyncvmm.storage.census import Census, CheckReport
from asyncvmm.storage.chain import format_of
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.progress import Progress, silent
from asyncvmm.storage.repair import repair_image


def check_image(
    path: Path | str,
    format: str | None = None,
    *,
    repair: str | None = None,
    progress: Progress = silent,
) -> CheckReport:
    """Check an image; ``repair`` is None, "leaks" (free what nobody uses) or "all".

    ImageError when it is in use or its header is wrong: that is not repaired. Raw images are right
    when they can be opened.
    """
    path = Path(path)
    if repair not in (None, "leaks", "all"):
        raise ImageError(f"disk image {path}: repair is leaks or all, not {repair!r}")
    kind = format_of(path, format)
    file = HostFile(path, read_only=repair is None, devices=kind == "raw")
    try:
        if kind == "raw":
            return CheckReport(path, "raw", file.size_bytes)
        census = Census(file, progress)
        census.count()
        census.compare()
        report = census.report
        if repair is None or report.clean or (repair == "leaks" and report.errors):
            return report
        repair_image(file, progress)
        after = Census(file, progress)
        after.count()
        after.compare()
        after.report.repaired = report.errors + report.leaks
        after.report.findings = [f"before: {each}" for each in report.findings] + [
            *after.report.findings
        ]
        return after.report
    finally:
        file.close()
