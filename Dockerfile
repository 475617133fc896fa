# ScaleSocket in a container, with its games and pages:
#   docker build -t scalesocket . && docker run --rm -p 5000:5000 scalesocket snake
# A program of your own is two lines more, in a Dockerfile beside it:
#   FROM scalesocket
#   COPY example.py ./
#   CMD ["./example.py"]

FROM python:3.13-slim AS server
# The server needs nothing; the sandbox's packets need the first, `--store redis://` the second.
RUN pip install --no-cache-dir --root-user-action=ignore msgpack==1.2.4 redis==8.1.0
RUN useradd --system --uid 10001 scalesocket
WORKDIR /scalesocket
COPY scalesocket.py LICENSE ./
COPY net net/
COPY game game/
COPY client client/
RUN python3 -m compileall -q .
USER scalesocket
EXPOSE 5000
# 200, or 503 while it drains. By hand, as Python's urllib would ask a proxy of the environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --start-interval=1s \
    CMD ["python3", "-c", "from http.client import HTTPConnection as To; to = To('127.0.0.1', 5000); to.request('GET', '/health'); raise SystemExit(to.getresponse().status != 200)"]
# It is the first process itself, and needs no other one (`--init`): it heeds SIGTERM, upon which
# rooms have 10 s to finish (give `docker stop --time 30`), and reaps what programs leave behind.
ENTRYPOINT ["python3", "scalesocket.py", "--addr", "0.0.0.0:5000", "--drain", "10"]
CMD ["game.py"]

# What stands in front of three nodes in compose.yaml: HAProxy, as --print-config sets it up.
FROM server AS proxy-config
ARG NODES="node-1:5000 node-2:5000 node-3:5000"
RUN python3 scalesocket.py --print-config haproxy $NODES > /tmp/haproxy.cfg

FROM haproxy:3.2-alpine AS proxy
COPY --from=proxy-config /tmp/haproxy.cfg /usr/local/etc/haproxy/haproxy.cfg

# Without --target: the server.
FROM server
