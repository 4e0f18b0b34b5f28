"""The benchmarks, one module each: `measure(ours, rival, rounds...)` returns rows of the table."""
