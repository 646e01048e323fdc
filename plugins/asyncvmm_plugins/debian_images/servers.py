"""The servers of the root disks: their packages, and what the packages' scripts would have set up.

What a server is told to serve is not here but in the steps of the scenarios, ``specs/scenarios``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import field, frozen


@frozen
class Software:
    """What a root disk has besides the system.

    ``packages`` are what is asked for, without what they need. ``accounts`` are by name the number of the
    user and of its group, and home; ``groups`` further groups' numbers by name. ``directories``, ``files``
    (texts) and ``links`` (targets) are below the root, where no package puts them.
    """

    packages: tuple[str, ...]
    accounts: Mapping[str, tuple[int, str]] = field(factory=dict)
    groups: Mapping[str, int] = field(factory=dict)
    directories: tuple[str, ...] = ()
    files: Mapping[str, str] = field(factory=dict)
    links: Mapping[str, str] = field(factory=dict)


# Named first, so that no dependency on sysusers or tmpfiles brings all of systemd.
_STANDALONE: Final = ("systemd-standalone-sysusers", "systemd-standalone-tmpfiles")

# What pam-auth-update writes for a system with local accounts.
_PAM: Final[Mapping[str, str]] = {
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
}

SERVERS: Final = Software(
    packages=(
        *_STANDALONE,
        *("nginx", "gunicorn"),
        *("redis-server", "redis-tools", "sqlite3"),
        "vsftpd",
        "opensmtpd",
        *("cups-daemon", "cups-client"),
        "teeworlds-server",
    ),
    accounts={
        "redis": (101, "/var/lib/redis"),
        "messagebus": (102, "/nonexistent"),
        "ftp": (103, "/srv/ftp"),
        "opensmtpd": (104, "/var/lib/opensmtpd/empty"),
        "opensmtpq": (105, "/var/lib/opensmtpd/empty"),
    },
    groups={"lpadmin": 106, "ssl-cert": 107},
    directories=(
        *("etc/nginx", "var/www/html", "srv/ftp"),
        *("var/lib/opensmtpd/empty", "var/spool/cups/tmp", "var/cache/cups", "var/log/cups"),
    ),
    files={
        **_PAM,
        "var/www/html/index.html": "<title>asyncvmm</title>\n<h1>nginx on Debian in asyncvmm</h1>\n",
    },
    links={"etc/nginx/sites-enabled/default": "../sites-available/default"},
)
"""Of ``debian-root``."""

POSTGRESQL: Final = Software(
    packages=(*_STANDALONE, "diffutils", "postgresql"),
    accounts={"postgres": (101, "/var/lib/postgresql")},
    groups={"ssl-cert": 102},
    directories=("etc/postgresql", "var/lib/postgresql", "var/log/postgresql"),
    files=_PAM,
)
"""Of ``debian-postgresql``."""
