"""Join and leave messages: what they may tell of a client (`--joinmsg`, `--leavemsg`).

A client's own text is one line beside them, so that it cannot look like one; `--multiline` lets it
be several.
"""

from __future__ import annotations

import json
import re
import urllib.parse

from scalesocket import FLAG, RARE_BREAKS, Client, Config, refuse_if

# fmt: off
OPTIONS = (
    ("--multiline", "", FLAG,
     "a client's text may be several lines also with --joinmsg or --leavemsg"),
)
# fmt: on

_VARIABLE = re.compile(
    r"#(ID|ROOM|REMOTE_ADDR|RESTORED|QUERY_STRING|QUERY\b|USER\b|(?:QUERY|TEXT|JSON|USER)_\w+)",
    re.ASCII,
)


def check_options(config: Config) -> None:
    """Refuse --multiline where it changes nothing.

    Raises:
        ConfigError: there are no such messages, or clients' text is no lines.
    """
    announces = config.joinmsg or config.leavemsg
    refuse_if(
        config.multiline and (config.clientframe or not announces),
        "--multiline needs --joinmsg or --leavemsg, and no framing of what clients send",
    )
    raw = "--pty" if config.pty else "--binary" if config.binary else ""
    refuse_if(config.multiline and raw, f"{raw} and --multiline exclude each other")


def fill_in(template: str, client: Client) -> str:
    """Fill in a join or leave message.

    The variables are `#ID`, `#ROOM`, `#REMOTE_ADDR`, `#QUERY_STRING` and `#QUERY_NAME` for the
    query parameter `name`, which is URL-encoded: a space is `%20`; `#USER` and `#USER_NAME` for
    what --auth has said; `#RESTORED` is for --resumemsg. Values are escaped as in a JSON string,
    and none has a line break.
    Decoded are `#TEXT_NAME`, `#JSON_NAME`, in quotes, and `#QUERY`, an object of all parameters.
    """
    query = client.request.query
    values = {"ID": str(client.id), "ROOM": client.room_name}
    values |= {"REMOTE_ADDR": client.address, "QUERY_STRING": query, "USER": client.user}
    values["RESTORED"] = json.dumps(client.restored)

    def expand(match: re.Match[str]) -> str:
        name = match[1]
        if name == "QUERY":
            return json.dumps(client.request.parameters)
        value = values.get(name)
        form, _, wanted = name.partition("_")
        if value is None and form == "USER":
            value = client.claims.get(wanted.lower(), "")
        if value is None:
            pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
            value = next((v for k, v in pairs if k.upper() == wanted.upper()), "")
            value = urllib.parse.quote(value, safe="") if form == "QUERY" else value
        text = json.dumps(value, ensure_ascii=False)
        for separator, escape in RARE_BREAKS:
            text = text.replace(separator.decode(), escape.decode())
        return text if form == "JSON" else text[1:-1]

    return _VARIABLE.sub(expand, template)
