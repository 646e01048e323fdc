"""What runs before or below a guest's kernel: loaders (``elf.py``, ``image.py``), the host as SBI
firmware (``sbi.py``, numbers in ``sbi_abi.py``), HTIF for bare programs (``htif.py``).
"""
