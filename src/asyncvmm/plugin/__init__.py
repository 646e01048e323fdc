"""The plugin floor: hookspecs, device types, and the manager that finds them. Only pluggy user.

A plugin is a module with functions marked ``@hookimpl``, named by an entry point of the group
``asyncvmm``. Hooks are few and cold: they are called while a machine is put together, never on an
access. Reading order: ``hookspecs.py`` (what can be extended), ``devices.py`` (what a device type
is), ``backend.py`` (the task of a live device), ``network_backends.py`` (what is at the end of a cable),
``options.py`` (``virtio-blk,path=disk.img,readonly`` to a config), ``state.py`` (what a snapshot
keeps), ``manager.py`` (how plugins are found and what happens when one is broken).
"""

from asyncvmm.network.outlet import NetworkIo
from asyncvmm.plugin.backend import Backend, BackendIo, backend_of
from asyncvmm.plugin.devices import (
    DEVICE_API,
    BlobSpec,
    Compatible,
    DeviceType,
    FdtValue,
    FolderSpec,
    NetSpec,
)
from asyncvmm.plugin.hookspecs import hookimpl, hookspec
from asyncvmm.plugin.manager import PluginManager, PluginProblem, create_plugin_manager
from asyncvmm.plugin.network_backends import NetworkBackend, NetworkBackendType, NetworkTaskIo
from asyncvmm.plugin.options import parse_options, split_options
from asyncvmm.plugin.state import DeviceState, VersionedState

__all__ = [
    "DEVICE_API",
    "Backend",
    "BackendIo",
    "BlobSpec",
    "Compatible",
    "DeviceState",
    "VersionedState",
    "DeviceType",
    "FdtValue",
    "FolderSpec",
    "NetSpec",
    "NetworkBackend",
    "NetworkBackendType",
    "NetworkIo",
    "NetworkTaskIo",
    "PluginManager",
    "PluginProblem",
    "backend_of",
    "create_plugin_manager",
    "hookimpl",
    "hookspec",
    "parse_options",
    "split_options",
]
