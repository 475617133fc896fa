# /// script
# requires-python = ">=3.11"
#
# [tool.scalesocket]
# staticdir = "../client/web"
# api = true
# cache = "100"
# resume = 30
# ///
"""A chat: whatever one says, everybody in the room reads, and who comes later, too.

    python3 scalesocket.py chat        then open http://localhost:9000/ in two windows

All of it is the server's doing. `cat` in place of this program would serve as well.
"""

from sys import stdin

for line in stdin:
    print(line, end="")
