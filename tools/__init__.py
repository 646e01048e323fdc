"""What developers run: build, generate, benchmark, campaigns."""
