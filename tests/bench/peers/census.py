"""A program that counts its clients: it calls them all, and says when all have answered.

A line `call N` is said to everyone; when N other lines have come, it says `all N`. Lines are as
long as the question was, so that the load generator knows what it must get.
"""

import sys

waiting = size = 0
for line in sys.stdin.buffer:
    if line.startswith(b"call "):
        waiting, size = int(line.split()[1]), len(line)
        answer = line
    else:
        waiting -= 1
        answer = b"all".ljust(size - 1) + b"\n"
    if answer is line or waiting == 0:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
