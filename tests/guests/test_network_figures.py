"""Much over a network with Debian's nginx and curl: a file of 64 MB, 200 requests, good captures."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from asyncvmm.api import Guest, Host, find_image, image_config, open_host
from asyncvmm.runtime.connections import GuestStream
from asyncvmm_plugins.debian_images import root_disk
from tests.guests.conftest import require_recipe

pytestmark = pytest.mark.guest

FILE_BYTES = 64 << 20
CAPTURED_MIB = int(os.environ.get("ASYNCVMM_TEST_CAPTURED_MIB", "6"))  # 64 takes minutes
REQUESTS = 200
PAGE = b"a page of some bytes\n"
SERVE = """
mkdir -p /var/log/nginx /var/lib/nginx
cd /var/www/html
printf 'a page of some bytes\\n' > page
python3 -c "
import random
random.seed(5)
with open('file', 'wb') as out:
    for _ in range($1):
        out.write(random.randbytes(1 << 20))
"
nginx
sha256sum file"""


async def start(host: Host, name: str, **options: object) -> Guest:
    image = find_image("debian-root")
    config = image_config(image, commands=True, name=name, nets=("lan",), memory="512M", **options)
    return await host.start(config)


async def serve(guest: Guest, mib: int) -> str:
    """Start the server; the hash of its file."""
    done = await guest.run(["sh", "-c", SERVE, "serve", str(mib)])
    assert done.status == 0, done
    return done.stdout.split()[0].decode()


async def answer(stream: trio.abc.Stream) -> tuple[bytes, bytes]:
    """The header and the body of an HTTP answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (got := await stream.receive_some()) or b""
        assert got, "the connection ended within a header"
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length:")[1].split()[0])
    while len(body) < size:
        body += (got := await stream.receive_some()) or b""
        assert got, "the connection ended within a body"
    return head, bytes(body)


async def ask_often(stream: trio.abc.Stream) -> None:
    """All requests over one connection."""
    for _ in range(REQUESTS):
        await stream.send_all(b"GET /page HTTP/1.1\r\nHost: web\r\n\r\n")
        head, body = await answer(stream)
        assert head.startswith(b"HTTP/1.1 200") and b"keep-alive" in head
        assert body == PAGE


async def file_hash(stream: trio.abc.Stream) -> tuple[int, str]:
    """Size and hash of the file."""
    await stream.send_all(b"GET /file HTTP/1.0\r\n\r\n")
    data = bytearray()
    while got := await stream.receive_some():
        data += got
    body = bytes(data).partition(b"\r\n\r\n")[2]
    return len(body), hashlib.sha256(body).hexdigest()


def malformed(capture: Path) -> tuple[int, list[str]]:
    """How many frames tshark reads, and those with anything wrong: malformed, or a bad checksum."""
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed")
    checks = [
        word for layer in ("ip", "tcp", "udp") for word in ("-o", f"{layer}.check_checksum:TRUE")
    ]
    command = [tshark, "-r", str(capture), *checks, "-T", "fields", "-e", "frame.number"]
    wrong = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0"
    every = subprocess.run(command, capture_output=True, text=True, check=True)
    bad = subprocess.run([*command, "-Y", wrong], capture_output=True, text=True, check=True)
    return len(every.stdout.split()), bad.stdout.split()


async def test_through_a_forward_and_through_connect() -> None:
    require_recipe("debian-root", root_disk.RECIPE)
    async with open_host() as host:
        guest = await start(host, "web", clock="realtime")
        wanted = await serve(guest, FILE_BYTES >> 20)
        port = await host.forward("web", "0:80")
        async with await trio.open_tcp_stream("127.0.0.1", port) as outside:
            outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await ask_often(outside)
            assert await file_hash(outside) == (FILE_BYTES, wanted)
        async with await host.connect("web", 80) as inside:
            assert isinstance(inside, GuestStream)
            await ask_often(inside)
            assert await file_hash(inside) == (FILE_BYTES, wanted)


async def transfer(capture: Path, impaired: bool) -> str:
    """A file and requests from guest to guest, all of it captured; what the client says."""
    links = {"client": {"loss": 0.001, "reorder": 0.001, "duplicate": 0.001}} if impaired else {}
    async with open_host(seed=7, networks={"lan": {"links": links}}) as host:
        web, client = await start(host, "web"), await start(host, "client")
        wanted = await serve(web, CAPTURED_MIB)
        with capture.open("wb") as out:
            host.networks["lan"].capture(out)
            script = (
                "curl -s http://web/file | sha256sum; curl -s -o /dev/null "
                f"-w '%{{http_code}} %{{num_connects}}\\n' 'http://web/page?[1-{REQUESTS}]' | sort | uniq -c"
            )
            done = await client.run(["sh", "-c", script])
            said = done.stdout.decode()
            assert done.status == 0 and wanted in said, done
            host.networks["lan"].close()
    return said


@pytest.mark.parametrize("impaired", [False, True])
async def test_a_file_from_guest_to_guest_whose_frames_are_all_good(
    tmp_path: Path, impaired: bool
) -> None:
    require_recipe("debian-root", root_disk.RECIPE)
    captures = [tmp_path / "1.pcapng", tmp_path / "2.pcapng"]
    said = [await transfer(capture, impaired) for capture in captures]
    assert said[0] == said[1]
    assert f"{REQUESTS - 1} 200 0" in said[0]
    assert captures[0].read_bytes() == captures[1].read_bytes()
    frames, bad = malformed(captures[0])
    print(f"{captures[0].stat().st_size} bytes, {frames} frames, impaired: {impaired}")
    assert frames > (CAPTURED_MIB << 20) // 1460
    assert bad == []
