"""The servers of ``debian-root``: their packages, and what the packages' scripts would have set up.

What a server is told to serve is not here but in the steps of the scenarios, ``specs/scenarios``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PACKAGES: Final = (
    # Named first, so that no dependency on sysusers or tmpfiles brings all of systemd.
    *("systemd-standalone-sysusers", "systemd-standalone-tmpfiles"),
    *("nginx", "gunicorn"),
    *("redis-server", "redis-tools", "sqlite3"),
    "vsftpd",
    "opensmtpd",
    *("cups-daemon", "cups-client"),
    "teeworlds-server",
)

ACCOUNTS: Final[Mapping[str, tuple[int, str]]] = {
    "redis": (101, "/var/lib/redis"),
    "messagebus": (102, "/nonexistent"),
    "ftp": (103, "/srv/ftp"),
    "opensmtpd": (104, "/var/lib/opensmtpd/empty"),
    "opensmtpq": (105, "/var/lib/opensmtpd/empty"),
}
"""Accounts by name: number of the user and of its group, and home."""

GROUPS: Final[Mapping[str, int]] = {"lpadmin": 106, "ssl-cert": 107}

DIRECTORIES: Final = (
    *("etc/nginx", "var/www/html", "srv/ftp"),
    *("var/lib/opensmtpd/empty", "var/spool/cups/tmp", "var/cache/cups", "var/log/cups"),
)

# What pam-auth-update writes for a system with local accounts.
FILES: Final[Mapping[str, str]] = {
    "etc/pam.d/common-auth": "auth required pam_unix.so nullok\n",
    "etc/pam.d/common-account": "account required pam_unix.so\n",
    "etc/pam.d/common-password": "password required pam_unix.so\n",
    "etc/pam.d/common-session": "session required pam_unix.so\n",
    "etc/pam.d/common-session-noninteractive": "session required pam_unix.so\n",
    "etc/pam.d/other": (
        "@include common-auth\n@include common-account\n"
        "@include common-password\n@include common-session\n"
    ),
    "etc/shells": "/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n",
    "var/www/html/index.html": "<title>asyncvmm</title>\n<h1>nginx on Debian in asyncvmm</h1>\n",
}

LINKS: Final[Mapping[str, str]] = {
    "etc/nginx/sites-enabled/default": "../sites-available/default",
}
