"""Where a step spends its time: operations, layers, operators of a file, counters of a GPU."""
