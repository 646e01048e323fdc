"""How fast a network is: Debian's nginx, curl and Python in guests, programs on the host.

Guest to guest, our guests are on one host and its virtual clock, QEMU's in two processes that meet at
a port forward of user networking. Between guest and host both are paced by the wall clock and reached
through a port forward by the same program.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Literal

import attrs
import trio

from asyncvmm.base.errors import BackendError
from asyncvmm.plugin import PluginManager
from asyncvmm.plugin.images import ImageCache, ImageType
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.testing.bench_peers import OURS, PEER, Results, Task
from asyncvmm.testing.bench_shells import Shell, qemu_shell, shell_config

BULK_MB: Final = 64
REQUESTS: Final = 1000
WARM_REQUESTS: Final = 500  # before, on both machines: what is measured is not their translators
WEB_PORT: Final = 80
SINK_PORT: Final = 5001
PAGE_BYTES: Final = 512
Part = Literal["guests", "host"]
PARTS: Final[tuple[Part, ...]] = ("guests", "host")

GUEST_BULK: Final = Task("guest to guest, a file over HTTP", BULK_MB, "MB")
GUEST_REQUESTS: Final = Task("guest to guest, HTTP with keep-alive", REQUESTS, "requests")
DOWN_BULK: Final = Task("guest to host, a file over HTTP", BULK_MB, "MB")
DOWN_REQUESTS: Final = Task("host to guest, HTTP with keep-alive", REQUESTS, "requests")
UP_BULK: Final = Task("host to guest, TCP", BULK_MB, "MB")
CONNECT_BULK: Final = Task("guest to host.connect, a file over HTTP", BULK_MB, "MB")
CONNECT_REQUESTS: Final = Task("host.connect to guest, HTTP with keep-alive", REQUESTS, "requests")

_SERVE: Final = (
    "mkdir -p /var/log/nginx /var/lib/nginx",
    f"head -c {BULK_MB * 1_000_000} /dev/zero > /var/www/html/bulk",
    f"head -c {PAGE_BYTES} /dev/zero > /var/www/html/page",
    # In a file: with -g they would be outside of "http", where nginx takes neither.
    "printf 'access_log off;\nkeepalive_requests 100000;\n' > /etc/nginx/conf.d/bench.conf",
    "nginx",
)
# Takes connections one after the other and says at the end of each how much came.
_SINK: Final = f"""cat > /tmp/sink.py <<'END'
import socket
buffer = bytearray(1 << 18)
server = socket.create_server(("0.0.0.0", {SINK_PORT}))
while True:
    peer = server.accept()[0]
    count = 0
    while got := peer.recv_into(buffer):
        count += got
    peer.sendall(b"%d\\n" % count)
    peer.close()
END
python3 /tmp/sink.py > /tmp/sink.log 2>&1 &
while ! ss -ltn | grep -q :{SINK_PORT}; do sleep 0.1; done"""

# The program on the host: it does the same to both machines, and times itself.
_CLIENT: Final = '''
import json, socket, sys, time

def answer(peer, rest=b""):
    """The bytes behind the header of an answer; what belongs to it is read and counted."""
    data = bytearray(rest)
    while b"\\r\\n\\r\\n" not in data:
        got = peer.recv(65536)
        if not got:
            raise SystemExit("the connection ended within a header")
        data += got
    head, _, body = bytes(data).partition(b"\\r\\n\\r\\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(repr(head[:80]))
    size = int(head.lower().split(b"content-length:")[1].split()[0])
    left = size - len(body)
    while left > 0:
        count = peer.recv_into(buffer, min(left, len(buffer)))
        if not count:
            raise SystemExit("the connection ended within a body")
        left -= count
    return size

buffer = bytearray(1 << 18)
what, port, amount = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
peer = socket.create_connection(("127.0.0.1", port))
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
ask = "GET /%s HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n"
begun = time.perf_counter()
if what == "down":
    peer.sendall((ask % "bulk").encode())
    done = answer(peer)
elif what == "requests":
    for done in range(1, amount + 1):
        peer.sendall((ask % "page").encode())
        answer(peer)
else:
    peer.sendall(bytes(amount))
    peer.shutdown(socket.SHUT_WR)
    done = int(peer.makefile().readline())
if done != amount:
    raise SystemExit(f"{done} of {amount}")
print(json.dumps(time.perf_counter() - begun))
'''


@attrs.frozen
class _Pair:
    """Two guests: the server, and a client that knows it by ``url``."""

    web: Shell
    client: Shell
    url: str


@attrs.frozen
class _Single:
    """One guest; ``ports`` are this machine's, to its web server and its sink."""

    web: Shell
    ports: tuple[int, int]
    host: Host | None = None


async def measure_net(
    image: ImageType,
    *,
    runs: int,
    parts: tuple[Part, ...] = PARTS,
    qemu: bool = True,
    engine: str = "auto",
    plugins: PluginManager | None = None,
    done: Callable[[str, Task, float], None] = lambda machine, task, seconds: None,
) -> Results:
    """Boot, measure and end one machine after the other, ``runs`` times. ``done`` hears of every run.

    BackendError when a guest does not do what it should.
    """
    results = Results()

    def note(machine: str, task: Task, seconds: float) -> None:
        results.add(machine, task, seconds)
        done(machine, task, seconds)

    for _ in range(runs):
        if "guests" in parts:
            async with _our_pair(image, engine, plugins) as pair:
                await _between_guests(OURS, pair, note)
            if qemu:
                async with _qemu_pair(image) as pair:
                    await _between_guests(PEER, pair, note)
        if "host" in parts:
            async with _our_single(image, engine, plugins) as single:
                await _with_host(OURS, single, note)
            if qemu:
                async with _qemu_single(image) as single:
                    await _with_host(PEER, single, note)
    return results


async def _between_guests(
    machine: str, pair: _Pair, note: Callable[[str, Task, float], None]
) -> None:
    await _start_servers(pair.web)
    client, url = pair.client, pair.url
    await client.run(f"curl -sf -o /dev/null '{url}/page?[1-{WARM_REQUESTS}]'")
    note(machine, GUEST_BULK, await client.run(f"curl -sf -o /dev/null {url}/bulk"))
    note(
        machine,
        GUEST_REQUESTS,
        await client.run(f"curl -sf -o /dev/null '{url}/page?[1-{REQUESTS}]'"),
    )


async def _with_host(
    machine: str, single: _Single, note: Callable[[str, Task, float], None]
) -> None:
    await _start_servers(single.web)
    web, sink = single.ports
    size = BULK_MB * 1_000_000
    await _client("requests", web, WARM_REQUESTS)
    note(machine, DOWN_BULK, await _client("down", web, size))
    note(machine, DOWN_REQUESTS, await _client("requests", web, REQUESTS))
    note(machine, UP_BULK, await _client("up", sink, size))
    if single.host is not None:
        note(machine, CONNECT_BULK, await _connect(single.host, single.web.name, "bulk", 1))
        seconds = await _connect(single.host, single.web.name, "page", REQUESTS)
        note(machine, CONNECT_REQUESTS, seconds)


async def _start_servers(web: Shell) -> None:
    for command in (*_SERVE, _SINK):
        await web.run(command)


async def _client(what: str, port: int, amount: int) -> float:
    """Run the program on the host; seconds as it measured them."""
    command = [sys.executable, "-c", _CLIENT, what, str(port), str(amount)]
    ended = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if ended.returncode:
        raise BackendError(f"{what} through port {port}: {ended.stderr.decode().strip()[-400:]}")
    return float(json.loads(ended.stdout))


async def _connect(host: Host, guest: str, page: str, requests: int) -> float:
    """``requests`` GETs over one stream of host.connect."""
    size = BULK_MB * 1_000_000 if page == "bulk" else PAGE_BYTES
    stream = await host.connect(guest, WEB_PORT)
    begun = trio.current_time()
    for _ in range(requests):
        await stream.send_all(f"GET /{page} HTTP/1.1\r\nHost: web\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = await stream.receive_some()
            if not data:
                raise BackendError(f"{guest}: the connection ended within a header")
            head += data
        left = size - len(head.partition(b"\r\n\r\n")[2])
        while left > 0:
            data = await stream.receive_some()
            if not data:
                raise BackendError(f"{guest}: the connection ended within a body")
            left -= len(data)
    seconds = trio.current_time() - begun
    await stream.aclose()
    return seconds


@asynccontextmanager
async def _our_shells(
    image: ImageType,
    names: tuple[str, ...],
    clock: Literal["virtual", "realtime"],
    engine: str,
    plugins: PluginManager | None,
) -> AsyncIterator[tuple[Host, list[Shell]]]:
    prompt = image.boot_files(ImageCache()).prompt
    async with open_host(plugins=plugins) as host:
        shells = []
        for name in names:
            config = shell_config(image, name, clock=clock, nets=("lan",), engine=engine)
            console = (await host.start(config)).console
            shells.append(Shell(name, console.send_all, console.receive_some, prompt))
        for shell in shells:
            await shell.ready()
        yield host, shells


@asynccontextmanager
async def _our_pair(
    image: ImageType, engine: str, plugins: PluginManager | None
) -> AsyncIterator[_Pair]:
    async with _our_shells(image, ("web", "client"), "virtual", engine, plugins) as (_, shells):
        yield _Pair(shells[0], shells[1], "http://web")


@asynccontextmanager
async def _our_single(
    image: ImageType, engine: str, plugins: PluginManager | None
) -> AsyncIterator[_Single]:
    async with _our_shells(image, ("web",), "realtime", engine, plugins) as (host, shells):
        web = await host.forward("web", f"0:{WEB_PORT}")
        sink = await host.forward("web", f"0:{SINK_PORT}")
        yield _Single(shells[0], (web, sink), host)


@asynccontextmanager
async def _qemu_pair(image: ImageType) -> AsyncIterator[_Pair]:
    async with AsyncExitStack() as stack:
        (port,) = _free_ports(1)
        netdev = f"user,hostfwd=tcp:127.0.0.1:{port}-:{WEB_PORT}"
        web = await stack.enter_async_context(qemu_shell(image, "web", netdev=netdev))
        client = await stack.enter_async_context(qemu_shell(image, "client", netdev="user"))
        yield _Pair(web, client, f"http://10.0.2.2:{port}")


@asynccontextmanager
async def _qemu_single(image: ImageType) -> AsyncIterator[_Single]:
    web, sink = _free_ports(2)
    netdev = (
        f"user,hostfwd=tcp:127.0.0.1:{web}-:{WEB_PORT},hostfwd=tcp:127.0.0.1:{sink}-:{SINK_PORT}"
    )
    async with qemu_shell(image, "web", netdev=netdev) as shell:
        yield _Single(shell, (web, sink))


def _free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses now: QEMU cannot choose them itself."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
