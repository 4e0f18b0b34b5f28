"""How things are measured: places to run in, contenders, processor time, memory, tables."""
