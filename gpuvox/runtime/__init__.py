"""What the process may take, and how it ends: threads, memory, signals, caches of compiled code."""
