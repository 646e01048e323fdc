"""A virtual machine as a folder (DESIGN section 9), and what is done with one that is stopped.

In reading order: ``layout`` (what lies where), ``lock`` (one user at a time), ``settings`` (vm.toml)
and ``settings_edit`` (changed, comments kept), ``create``, ``logs``, ``head`` (what it goes on from),
``disks`` and ``snapshots``, and for machines that run: ``protocol``, ``server`` and ``client``, ``index``.
"""
