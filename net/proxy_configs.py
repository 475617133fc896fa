"""Configurations for what stands in front of many nodes, or runs them (`--print-config`).

A configuration is printed as its own program reads it: HAProxy, nginx, Kubernetes or systemd. One
rule holds in all of them: the first segment of the path is the room, and it alone decides about
the node.
"""

from __future__ import annotations

import argparse
import re
import zlib
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Any, NoReturn

from scalesocket import ConfigError

DRAIN = 300  # seconds that a generated configuration gives rooms to finish
DEFAULT_PORT = 9000
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NODE = re.compile(rf"(?:\[([0-9A-Fa-f:.]+)\]|(?:{_LABEL}\.)*{_LABEL}):([0-9]{{1,5}})")

HAPROXY = """\
# HAProxy 2.6 or later, in front of ScaleSocket. Check it: haproxy -c -f THIS_FILE
# Give each node `--trustproxy ADDRESS_OF_HAPROXY`, `--drain SECONDS` if rooms may finish, and
#   --api --peers @PEERS@
# so that a room which HAProxy has forgotten, by a reload or with a node, is found where it is open.
# What comes through another node has its client's address if that node is in --trustproxy, too.

global
    # No maxconn: as many clients as `ulimit -n` allows, with two descriptors for each. Where it
    # allows a billion, as in containers, HAProxy would make room for so many at the start.
    fd-hard-limit 200000

defaults
    mode http
    timeout http-request 10s        # for a request's head
    timeout connect 1s              # a node that is gone is left after so long
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h               # WebSockets; the server pings after 20 s, so none is silent
    timeout client-fin 10s
    default-server init-addr last,libc,none@RESOLVERS@    # start, also without a node
    option forwardfor               # who the client is: X-Forwarded-For
    # Instead of that: `send-proxy-v2` behind each server, which --trustproxy believes, too.
    option redispatch 1             # each retry asks the next node of the ring
    retries 3
    # A node that drains answers 503 to who would open a new room: the next node opens it.
    retry-on conn-failure empty-response 503

@SECTION@frontend clients
    bind :80
    # bind :443 ssl crt /etc/haproxy/certificate.pem alpn http/1.1
    http-request del-header X-Forwarded-For    # nobody in front of us is believed
    http-request set-header X-Forwarded-Host %[req.hdr(host)]    # for --sameorigin
    http-request set-header X-Forwarded-Proto https if { ssl_fc }
    http-request set-header X-Forwarded-Proto http unless { ssl_fc }
    # The room: the first segment of the path, decoded, as one name may be written in several
    # ways. What /api/ tells of a room is asked where the room is.
    http-request set-var(txn.room) path,field(2,/),url_dec
    http-request set-var(txn.room) path,field(3,/),url_dec if { path_beg /api/ }
    # An entry of the table cannot expire while a connection of its room is open.
    http-request track-sc0 var(txn.room) table rooms if { hdr(Upgrade) -i websocket }
    acl of_a_room hdr(Upgrade) -i websocket
    acl of_a_room path_reg ^/api/[^/]+/
    use_backend rooms if of_a_room !{ path_beg /api/rooms/ }
    default_backend pages

backend rooms
    balance hash var(txn.room)      # before HAProxy 2.6: balance uri depth 1
    hash-type consistent            # a node more or less moves its own share of rooms only
    # A room stays where it is until its last client has left, also when the ring has changed.
    # Several HAProxys share this by a section `peers`, and a reload keeps it by one; without it
    # only the ring unites them, and the nodes' --peers.
    stick-table type string len 512 size 1m expire 10s
    stick on var(txn.room)
    option httpchk GET /health
    # 503: it drains. It stays, since its rooms can still be joined, and refuses others itself.
    http-check expect status 200,503
    # weight: each node is on the ring 1,024 times, so their shares are even.
    # maxconn: below the node's --maxconns, so that clients wait here and no room is split.
    default-server weight 64 maxconn 10000
    default-server check inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
@ROOMS@

backend pages
    balance roundrobin              # files, and the list of all rooms: any node has them
@PAGES@
"""

RESOLVERS = """\
# Nodes that have names may change their addresses.
resolvers system
    parse-resolv-conf
    hold valid 10s

"""

NGINX = """\
# nginx in front of ScaleSocket: a file for /etc/nginx/conf.d/. Check it: nginx -t
# Give each node `--trustproxy ADDRESS_OF_NGINX`, `--drain SECONDS` if rooms may finish, and
#   --api --peers @PEERS@
# so that a room is found where it is open, also when this list or a node has changed meanwhile.
# What comes through another node has its client's address if that node is in --trustproxy, too.
# In /etc/nginx/nginx.conf, `worker_connections` must be twice the number of clients, and more.

# The room: the first segment of the path; $uri is decoded. What /api/ tells of a room is asked
# where the room is.
map $uri $scalesocket_room {
    default "";
    "~^/api/(?<asked>[^/]+)" $asked;
    "~^/(?<room>[^/]+)" $room;
}

map $http_upgrade $scalesocket_connection {
    default upgrade;
    "" "";
}

# A request in HTTP/1.0 needs no Host, as of a balancer that asks for /health; in 1.1 it does.
map $http_host $scalesocket_host {
    default $http_host;
    "" $server_addr;
}

upstream scalesocket_rooms {
    # Consistent: a node more or less moves its own share of rooms only. It moves them at once
    # for newcomers, whom that node passes through to where the room is open (--peers), until it
    # starts anew.
    hash $scalesocket_room consistent;
    # max_fails=0: always the same order of nodes for a room, and each client finds the next.
@ROOMS@
}

server {
    listen 80;
    # listen 443 ssl; ssl_certificate certificate.pem; ssl_certificate_key key.pem;

    location / {
        proxy_pass http://scalesocket_rooms;
        proxy_http_version 1.1;
        proxy_set_header Host $scalesocket_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $scalesocket_connection;
        proxy_set_header X-Forwarded-For $remote_addr;    # nobody in front of us is believed
        proxy_set_header X-Forwarded-Host $http_host;    # for --sameorigin
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_connect_timeout 1s;     # a node that is gone is left after so long
        proxy_read_timeout 1h;        # the server pings after 20 s, so no WebSocket is silent
        proxy_send_timeout 1h;
        proxy_buffering off;          # a message is passed on as it comes
        # A node that drains answers 503 to who would open a new room: the next node opens it.
        proxy_next_upstream error timeout http_503;
        proxy_next_upstream_tries 3;
    }
}
"""

KUBERNETES = """\
# ScaleSocket on Kubernetes: kubectl apply -f THIS_FILE
# Yours to change: the image (Python 3.11, scalesocket.py, net/ and your game in /srv), the name
# of the host, and where your ingress controller comes from (--trustproxy).
---
# Gives each pod a name of its own: scalesocket-0.scalesocket, and so on.
apiVersion: v1
kind: Service
metadata:
  name: scalesocket
  labels: {app: scalesocket}
spec:
  clusterIP: None
  publishNotReadyAddresses: true  # who drains is still to be found by its --peers
  selector: {app: scalesocket}
  ports:
    - {name: http, port: @PORT@, targetPort: http}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: scalesocket
  labels: {app: scalesocket}
spec:
  serviceName: scalesocket
  replicas: @COUNT@
  podManagementPolicy: Parallel  # nodes do not know each other, so none waits for another
  selector:
    matchLabels: {app: scalesocket}
  template:
    metadata:
      labels: {app: scalesocket}
    spec:
      # preStop, --drain, and then the children's end.
      terminationGracePeriodSeconds: @GRACE@
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        seccompProfile: {type: RuntimeDefault}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {app: scalesocket}
      containers:
        - name: scalesocket
          image: images.example.com/your-game:1
          workingDir: /srv
          command: ["python3", "scalesocket.py"]
          args:
            - --addr=0.0.0.0:@PORT@
            - --api
            - --metrics
            - --drain=@DRAIN@
            - --trustproxy=10.0.0.0/8
            - --peers=@PEERS@
            - game.py
          ports:
            - {name: http, containerPort: @PORT@}
          startupProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 1
            failureThreshold: 30
          readinessProbe:  # 503 while it drains: no more clients are sent to it
            httpGet: {path: /health, port: http}
            periodSeconds: 2
            failureThreshold: 1
          livenessProbe:  # not /health: who drains is not to be killed
            tcpSocket: {port: http}
            periodSeconds: 10
            failureThreshold: 3
          lifecycle:
            preStop:  # SIGTERM, which begins to drain, once the ingress sends no more clients
              exec: {command: ["sleep", "5"]}
          resources:
            requests: {cpu: "1", memory: 512Mi}
            limits: {memory: 2Gi}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: ["ALL"]}
---
# One node at a time, when machines are emptied.
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: scalesocket
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {app: scalesocket}
---
# For the ingress controller ingress-nginx. With another one: hash by path, consistently; or let
# the output of `--print-config haproxy` for the pods' names run in a Deployment.
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: scalesocket
  annotations:
    # A room is the path. /room/ and /api/room/ hash to other pods than /room, and so may all
    # after the number of pods has changed: those pods find the room by --peers.
    nginx.ingress.kubernetes.io/upstream-hash-by: "$uri"
    nginx.ingress.kubernetes.io/proxy-connect-timeout: "1"
    nginx.ingress.kubernetes.io/proxy-read-timeout: "3600"
    nginx.ingress.kubernetes.io/proxy-send-timeout: "3600"
    nginx.ingress.kubernetes.io/proxy-buffering: "off"
    nginx.ingress.kubernetes.io/proxy-next-upstream: "error timeout http_503"
spec:
  ingressClassName: nginx
  rules:
    - host: play.example.com
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: scalesocket
                port: {name: http}
"""

SYSTEMD = """\
# /etc/systemd/system/scalesocket.socket
# systemd keeps the socket while the service restarts: who connects meanwhile waits in its queue
# and is served by the next one. So no --drain here: it would keep the queue waiting.
#   systemctl enable --now scalesocket.socket scalesocket.service
#   systemctl restart scalesocket.service

[Unit]
Description=ScaleSocket's port

[Socket]
ListenStream=@LISTEN@
Backlog=4096
NoDelay=true

[Install]
WantedBy=sockets.target

# /etc/systemd/system/scalesocket.service

[Unit]
Description=ScaleSocket
Requires=scalesocket.socket
After=network.target scalesocket.socket

[Service]
# The sockets that systemd passes are used in place of --addr.
ExecStart=/usr/bin/python3 scalesocket.py --api --metrics game.py
WorkingDirectory=/srv/scalesocket
Restart=always
RestartSec=100ms
# SIGTERM is for the server alone: it stops its programs itself, each in its own time.
KillMode=mixed
TimeoutStopSec=30
# A client takes one descriptor, a room with a program up to five.
LimitNOFILE=262144
TasksMax=infinity
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes

[Install]
WantedBy=multi-user.target
"""


def print_config(kind: str, nodes: Sequence[str]) -> str:
    """Return a configuration for nodes, with comments.

    Args:
        kind: one of `CONFIGS`.
        nodes: each as HOST:PORT.

    Raises:
        ConfigError: a node cannot be one, or there are none and it needs some.
    """
    for node in nodes:
        if not is_node(node):
            raise ConfigError(f"--print-config: {node!r} is no HOST:PORT")
    if len(set(nodes)) < len(nodes):
        raise ConfigError("--print-config: a node is named twice")
    make = CONFIGS.get(kind)
    if make is None:
        raise ConfigError(f"--print-config: {kind!r} is none of {', '.join(CONFIGS)}")
    return make(nodes)


def is_node(text: str) -> bool:
    """Whether a text is HOST:PORT or [IPV6]:PORT, as each of the programs would read it."""
    match = _NODE.fullmatch(text)
    if match is None:
        return False
    try:
        IPv6Address(match[1] or "::")
    except ValueError:
        return False
    return 0 < int(match[2]) < 65536


def fill(template: str, **values: object) -> str:
    """Return a template with values for its `@NAMES@`."""
    for name, value in values.items():
        template = template.replace(f"@{name}@", str(value))
    return template


def check_nodes(kind: str, nodes: Sequence[str]) -> None:
    """Refuse to write a proxy's configuration for nothing.

    Raises:
        ConfigError: there are no nodes.
    """
    if not nodes:
        raise ConfigError(f"--print-config {kind} wants nodes, such as 10.0.0.1:9000")


def haproxy_ids(nodes: Sequence[str]) -> dict[str, int]:
    """Return a number for each node, which says where it is on HAProxy's ring.

    Made from its address, so that it does not change with the list; without it, a node taken
    out of the middle would move all behind it.
    """
    taken: dict[int, str] = {}
    for node in sorted(nodes):
        number = zlib.crc32(node.encode()) % 1_000_000 + 1  # HAProxy uses 20 bits of it
        while number in taken:
            number += 1
        taken[number] = node
    return {node: number for number, node in taken.items()}


def haproxy_config(nodes: Sequence[str]) -> str:
    """Return HAProxy's configuration."""
    check_nodes("haproxy", nodes)
    ids = haproxy_ids(nodes)
    names = {node: re.sub("[^A-Za-z0-9.-]", "_", node) for node in nodes}
    rooms = [f"    server {names[node]} {node} id {ids[node]}" for node in nodes]
    pages = [f"    server {names[node]} {node} track rooms/{names[node]}" for node in nodes]
    named = any(re.match(r"[^\[]*[A-Za-z]", node) for node in nodes)  # and not by an address
    return fill(
        HAPROXY,
        ROOMS="\n".join(rooms),
        PAGES="\n".join(pages),
        PEERS=",".join(nodes),
        RESOLVERS=" resolvers system" if named else "",
        SECTION=RESOLVERS if named else "",
    )


def nginx_config(nodes: Sequence[str]) -> str:
    """Return nginx' configuration."""
    check_nodes("nginx", nodes)
    rooms = "\n".join(f"    server {node} max_fails=0;" for node in nodes)
    return fill(NGINX, ROOMS=rooms, PEERS=",".join(nodes))


def port_of(nodes: Sequence[str]) -> int:
    """Return the port of the first node, or the usual one."""
    return int(nodes[0].rpartition(":")[2]) if nodes else DEFAULT_PORT


def kubernetes_config(nodes: Sequence[str]) -> str:
    """Return manifests; of the nodes only their number matters, and the port of the first."""
    count, port = len(nodes) or 3, port_of(nodes)
    peers = ",".join(f"scalesocket-{number}.scalesocket:{port}" for number in range(count))
    values = {"COUNT": count, "PORT": port, "PEERS": peers}
    return fill(KUBERNETES, DRAIN=DRAIN, GRACE=DRAIN + 30, **values)


def systemd_config(nodes: Sequence[str]) -> str:
    """Return a unit and its socket, the same for all nodes."""
    return fill(SYSTEMD, LISTEN=port_of(nodes))


CONFIGS: dict[str, Callable[[Sequence[str]], str]] = {
    "haproxy": haproxy_config,
    "nginx": nginx_config,
    "kubernetes": kubernetes_config,
    "systemd": systemd_config,
}


class PrintConfig(argparse.Action):
    """Prints a configuration in place of serving, as --help prints help."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        """Print it and exit.

        Raises:
            ConfigError: it cannot be made for these nodes.
        """
        kind, *nodes = values or [""]  # argparse takes the `--` of `--print-config=--` away
        print(print_config(kind, nodes), end="", flush=True)
        parser.exit()


# fmt: off
OPTIONS = (
    ("--print-config", "KIND [NODE ...]",
     {"action": PrintConfig, "nargs": "+", "metavar": ("KIND", "NODE")},
     "print a configuration of haproxy, nginx, kubernetes or systemd for these nodes "
     "(HOST:PORT) and exit"),
)
# fmt: on
