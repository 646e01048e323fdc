"""The VM generation identifier (Microsoft's specification; Linux: drivers/virt/vmgenid.c): 16 bytes
that change when a guest goes on as a copy, so that its kernel makes its randomness anew at once.
"""
