"""The floor that awaits: hosts, their guests, and everything that waits for the world outside.

To read, in this order:

1. ``host``: what a program holds; ``host_parts`` what it is made of, ``population`` how guests come and go.
2. ``guest``: one of them; ``fittings`` what programs have of its machine: ``commands``, ``vsock``,
   ``balloon``, ``shares``; ``console`` and ``ports`` are streams.
3. ``conductor``: the one loop. ``places`` says where everybody is, ``books`` who has a CPU, ``runner``
   lets them live (in ``workers``), ``outcomes`` sees to what became of them, ``task_turns`` is when other
   tasks have their turn, ``goal`` and ``pace`` how far time goes.
4. ``entrance`` and ``outbox``: the only ways in and out; ``networks``, ``backends``, ``edge`` use them.
5. ``snapshots`` and ``host_copies``: guests and hosts as values; ``snapshot_files`` on disk.
6. ``history`` with ``visits``: a guest's past; ``journal`` and ``replay``: a host's.
7. ``folder``: a machine that is kept in a folder; ``scenario``: what ``asyncvmm up`` reads.
"""
