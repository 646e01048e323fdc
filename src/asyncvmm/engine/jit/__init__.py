"""The translating engine: LLVM through llvmlite, the only floor that imports it."""
