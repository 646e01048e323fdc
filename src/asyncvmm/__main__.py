"""``python -m asyncvmm``: the command line without its script."""

from asyncvmm.cli.script import script

if __name__ == "__main__":
    script()
