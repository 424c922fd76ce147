"""Channels: named ones, and those that devices name by a URL in place. Nobody else may open the same wire."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from fluxedge.config.decode import decode
from fluxedge.config.mistakes import Findings, unknown
from fluxedge.config.sources import Item
from fluxedge.config.structs import ChannelCfg
from fluxedge.config.toml_lines import Path
from fluxedge.config.urls import ChannelUrl, parse_channel_url

_PASSING_NAME = re.compile(r"/dev/tty(USB|ACM)\d+")  # the kernel counts these in the order of plugging
_PLAIN_ENDPOINT = re.compile(r"[0-9.]+:[0-9]+|/dev/tty(USB|ACM|S|AMA)[0-9]+")


@dataclass(slots=True)
class Channels:
    """The channels of a configuration while it is put together."""

    findings: Findings
    cfgs: dict[str, ChannelCfg] = field(default_factory=dict)
    implicit: set[str] = field(default_factory=set)  # ids of those without a name
    unusable: set[str] = field(default_factory=set)  # named, but with mistakes
    unread: list[str] = field(default_factory=list)  # files that may name more channels, but cannot be read
    _urls: dict[str, ChannelUrl] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)  # endpoint -> id of the channel

    def add(self, item: Item) -> None:
        """Take a named channel in, or note what is wrong with it."""
        cfg = decode(ChannelCfg, item.table, self.findings.noting(item.key))
        text = cfg.url if cfg else item.fields.get("url")
        url = self._parse(item, ("url",), text) if isinstance(text, str) else None
        if cfg is None or url is None:
            self.unusable.add(item.id)
            return
        owner = self._owners.get(url.endpoint)
        if owner is not None:
            text = f"{url.endpoint} is already opened by the channel {owner}"
            self.findings.error(item.key, ("url",), text, "Let the devices share one channel.")
            self.unusable.add(item.id)
            return
        self._own(item.id, url, cfg)

    def of(self, item: Item, channel: str) -> str | None:
        """Return the id of the channel that a device names, by id or URL; None after noting why there is none."""
        if "://" in channel:
            return self._in_place(item, channel)
        if channel in self.cfgs:
            return channel
        if channel in self.unusable:
            self.findings.blocked[item.key] = f"its channel {channel} cannot be used"
            return None
        if self.unread:
            self.findings.blocked[item.key] = (
                f"its channel {channel} may stand in {self.unread[0]}, which cannot be read"
            )
            return None
        hint = "Write a URL, for example tcp://192.168.1.10:502." if re.search(r"[/.:]", channel) else ""
        self.findings.error(item.key, ("channel",), unknown("channel", channel, self.cfgs), hint)
        return None

    def _in_place(self, item: Item, text: str) -> str | None:
        url = self._parse(item, ("channel",), text)
        if url is None:
            return None
        owner = self._owners.get(url.endpoint)
        if owner is None:
            owner = implicit_id(url)
            if owner in self.cfgs or owner in self.unusable:
                wrong = f"the channel {owner} has the name that this URL gets, and another URL"
                self.findings.error(item.key, ("channel",), wrong, f"Name that channel otherwise than {owner}.")
                return None
            self._own(owner, url, ChannelCfg(url=str(url)))
            self.implicit.add(owner)
        elif self._urls[owner] != url:
            wrong = f"{url.endpoint} is already opened by the channel {owner} as {self._urls[owner]}"
            self.findings.error(item.key, ("channel",), wrong, "Write the same URL, or the name of the channel.")
            return None
        return owner

    def _parse(self, item: Item, path: Path, text: str) -> ChannelUrl | None:
        try:
            url = parse_channel_url(text)
        except ValueError as exc:
            self.findings.error(item.key, path, str(exc))
            return None
        if _PASSING_NAME.fullmatch(url.path):
            wrong = f"{url.path} can be another port after the next start"
            self.findings.warn(item.key, path, wrong, "Use the name in /dev/serial/by-id that links to it.")
        return url

    def _own(self, id_: str, url: ChannelUrl, cfg: ChannelCfg) -> None:
        self.cfgs[id_] = cfg
        self._urls[id_] = url
        self._owners[url.endpoint] = id_


def implicit_id(url: ChannelUrl) -> str:
    """Return the id of a channel that has no name: from what it opens, independent of all other channels.

    tcp://10.0.0.7:502 -> tcp-10-0-0-7-502. Where different endpoints could read alike a digest is appended.
    """
    words = url.path.removeprefix("/dev/").removeprefix("serial/by-id/") if url.scheme == "serial" else url.endpoint
    name = f"{url.scheme.replace('+', '-')}-{re.sub('[^a-z0-9_]+', '-', words.lower()).strip('-')}"
    if _PLAIN_ENDPOINT.fullmatch(url.endpoint):
        return name
    return f"{name[:55].rstrip('-')}-{hashlib.blake2b(url.endpoint.encode(), digest_size=4).hexdigest()}"
