"""Mistakes, as a user sees them: file, line, path, words. Line numbers count from the first line of each text."""

from __future__ import annotations

import typing

import pytest

from fluxedge import apply
from fluxedge.config.load import Loaded
from fluxedge.config.mistakes import Finding
from fluxedge.config.structs import Config, ModbusOptionsCfg

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site

DEVICE = 'driver = "meter"\nchannel = "tcp://10.0.0.1"\n'
DRIVER = 'name = "X"\nprotocol = "modbus"\nsource = "none"\n[points]\n'

# (file, its text, how the line of the mistake goes on)
MISTAKES = {
    # syntax and files
    "a value without quotes": ("devices/a.toml", "[devices.m1]\ndriver = meter\n", "2: invalid value (column 10)"),
    "a key given twice": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}unit = 1\nunit = 2\n",
        "5: key devices.m1.unit is given twice; first in line 4",
    ),
    "a table given twice": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}\n[devices.m1]\n",
        "5: table devices.m1 is given twice; first in line 1",
    ),
    "a text without an end": (
        "fluxedge.toml",
        '[gateway]\nlabel = "Hall\n\n[log]\n',
        "2: the text that begins here has no closing quote",
    ),
    "another encoding": (
        "devices/a.toml",
        b'# \xb3\xb5\xbc\xe4\n[devices.m1]\nlabel = "\xd2\xbb"\n',
        "1: is not UTF-8 text",
    ),
    "a huge file": ("devices/a.toml", b"#" * (4 * 2**20 + 1), "is larger than 4 MiB"),
    # tables and keys
    "an unknown table": (
        "fluxedge.toml",
        "[log]\n[gatway]\n",
        '2: gatway: unknown table "gatway": did you mean "gateway"?',
    ),
    "a table of another file": (
        "fluxedge.toml",
        '[channels.bus]\nurl = "tcp://a"\n',
        "1: channels: [channels] belongs into devices/*.toml",
    ),
    "an uplink in a device file": (
        "devices/a.toml",
        "[uplinks.a]\n",
        "1: uplinks: [uplinks] belongs into fluxedge.toml",
    ),
    "a value for a table": ("devices/a.toml", "devices = 5\n", "1: devices: 5 is not a table; write [devices.NAME]"),
    "a value for an item": ("devices/a.toml", "[devices]\nm1 = 5\n", "2: devices.m1: 5 is not a table"),
    "an unknown key": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}evry = "1s"\n',
        '4: devices.m1.evry: unknown key "evry": did you mean "every"?',
    ),
    "a key of other gateways": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}slave_id = 1\n",
        '4: devices.m1.slave_id: unknown key "slave_id": did you mean "unit"?',
    ),
    "a missing key": (
        "devices/a.toml",
        '[devices.m1]\nchannel = "tcp://10.0.0.1"\n',
        '1: devices.m1: "driver" is missing',
    ),
    "a name with capitals": (
        "devices/a.toml",
        f"[devices.M1]\n{DEVICE}",
        '1: devices.M1: "M1" is not a name: use small letters, digits, _ and -',
    ),
    "a name with a space": (
        "devices/a.toml",
        f'[devices."m 1"]\n{DEVICE}',
        '1: devices."m 1": "m 1" is not a name: use small letters, digits, _ and -',
    ),
    # values
    "a number outside its range": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}\n\n\nunit = 300\n",
        "7: devices.m1.unit: 300 is not in 0..247",
    ),
    "text for a number": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}unit = "7"\n',
        '4: devices.m1.unit: "7" is not a whole number — Write it without quotes: 7.',
    ),
    "a fraction for a whole number": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}unit = 1.5\n",
        "4: devices.m1.unit: 1.5 is not a whole number",
    ),
    "a number for text": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}label = 7\n",
        '4: devices.m1.label: 7 is not text — Write it in quotes: "7".',
    ),
    "a date for text": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}label = 2026-01-01\n",
        '4: devices.m1.label: 2026-01-01 is not text — Write it in quotes: "2026-01-01".',
    ),
    "text for a boolean": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}enabled = "true"\n',
        '4: devices.m1.enabled: "true" is not true or false — Write it without quotes: true.',
    ),
    "a duration without its unit": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}every = 5\n",
        '4: devices.m1.every: 5 is not a duration; write a string with a unit such as "250ms", "1s", "5m", "24h"',
    ),
    "a period out of range": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}every = "1ms"\n',
        "4: devices.m1.every: 1ms is not between 10ms and 1d",
    ),
    "two keys that exclude each other": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}unit = 1\nunits = "1-3"\n',
        "1: devices.m1: unit and units: give one of them",
    ),
    "a size with a wrong unit": (
        "fluxedge.toml",
        '[log]\nbacklog = "4 gigs"\n',
        '2: log.backlog: "4 gigs" is not a size; write a string with a unit such as "64KiB", "8MiB", "4GiB"',
    ),
    "a commit period out of range": (
        "fluxedge.toml",
        '[log]\nkeep = "1d"\ncommit = "2m"\n',
        "3: log.commit: 2m is not between 50ms and 1m",
    ),
    "a log that is too small for itself": (
        "fluxedge.toml",
        '[log]\nbacklog = "8MiB"\nsegment = "1MiB"\n',
        '2: log.backlog: 8MiB is less than 16MiB — The file takes about 1 MiB for itself; write for example "4GiB".',
    ),
    "an address that cannot be listened on": (
        "fluxedge.toml",
        "[api]\nlisten = '8080'\n",
        '2: api.listen: "8080" is not an address to listen on — Write for example "127.0.0.1:8080".',
    ),
    "a socket path that is too long": (
        "fluxedge.toml",
        f"[api]\nsocket = '/{'x' * 110}'\n",
        "2: api.socket: the path is longer than 107 bytes, which a unix socket cannot have",
    ),
    # channels
    "a channel URL with an unknown scheme": (
        "devices/a.toml",
        '[channels.bus]\nurl = "modbus://10.0.0.1"\n',
        '2: channels.bus.url: "modbus" is not a scheme of channels; known are tcp://, rtu+tcp://, serial://',
    ),
    "a serial line with an unknown setting": (
        "devices/a.toml",
        '[channels.bus]\nlabel = "x"\nurl = "serial:///dev/ttyS0?bauds=9600"\n',
        '3: channels.bus.url: "bauds" is not a setting of a serial line; known are baud,',
    ),
    "a port that does not exist": (
        "devices/a.toml",
        '[devices.m1]\ndriver = "meter"\nchannel = "tcp://10.0.0.1:70000"\n',
        '3: devices.m1.channel: "tcp://10.0.0.1:70000": "70000" is not a port in 1..65535',
    ),
    "two channels on one port": (
        "devices/a.toml",
        '[channels.a]\nurl = "tcp://Host"\n[channels.b]\nurl = "rtu+tcp://host:502"\n',
        "4: channels.b.url: host:502 is already opened by the channel a — Let the devices share one channel.",
    ),
    "one port with two settings": (
        "devices/a.toml",
        '[channels.a]\nurl = "serial:///dev/ttyS0"\n'
        '[devices.m1]\ndriver = "meter"\nchannel = "serial:///dev/ttyS0?baud=19200"\n',
        "5: devices.m1.channel: /dev/ttyS0 is already opened by the channel a as serial:///dev/ttyS0?baud=9600&",
    ),
    "a channel that does not exist": (
        "devices/a.toml",
        '[channels.rs485-1]\nurl = "tcp://a"\n[devices.m1]\ndriver = "meter"\nchannel = "rs485"\n',
        '5: devices.m1.channel: there is no channel "rs485": did you mean "rs485-1"?',
    ),
    "an address for a channel": (
        "devices/a.toml",
        '[devices.m1]\ndriver = "meter"\nchannel = "10.0.0.1:502"\n',
        '3: devices.m1.channel: there is no channel "10.0.0.1:502" — Write a URL, for example tcp://192.168.1.10:502.',
    ),
    "no channel where one is needed": (
        "devices/a.toml",
        '[devices.m1]\ndriver = "meter"\n',
        "1: devices.m1: a device of the protocol modbus needs a channel",
    ),
    "a channel where none is": (
        "devices/a.toml",
        '[devices.pc]\ndriver = "host"\nchannel = "tcp://a"\n',
        "3: devices.pc.channel: a device of the protocol host has no channel — Remove the key.",
    ),
    # devices
    "a driver that does not exist": (
        "devices/a.toml",
        '[devices.m1]\ndriver = "metre"\nchannel = "tcp://a"\n',
        '2: devices.m1.driver: there is no driver "metre": did you mean "meter"?',
    ),
    "a unit where none is": (
        "devices/a.toml",
        '[devices.s]\ndriver = "waves"\nunit = 1\n',
        "3: devices.s.unit: a device of the protocol simulator has no unit — Remove the key.",
    ),
    "units that are no list": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}units = "1..3"\n',
        '4: devices.m1.units: "1..3" is not a list of units; write for example "1-32" or "1,3,5-8"',
    ),
    "units out of range": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}units = "240-250"\n',
        "4: devices.m1.units: 240-250 is not in 1..247",
    ),
    "two devices at one unit": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}[devices.m2]\n{DEVICE}unit = 1\n",
        "7: devices.m2.unit: unit 1 of the channel tcp-10-0-0-1-502 is already the device m1",
    ),
    "units that meet a device": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}unit = 3\n[devices.bank]\n{DEVICE}units = "1-4"\n',
        "8: devices.bank.units: unit 3 of the channel tcp-10-0-0-1-502 is already the device m1",
    ),
    "units that make a name twice": (
        "devices/a.toml",
        f'[devices.m-2]\n{DEVICE}[devices.m]\ndriver = "meter"\nchannel = "tcp://b"\nunits = "1-2"\n',
        "7: devices.m.units: m-2 is already the name of a device, see device m-2",
    ),
    "an option that does not exist": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}options = {{ max_register = 1 }}\n",
        '4: devices.m1.options.max_register: unknown key "max_register": did you mean "max_registers"?',
    ),
    "an option out of range": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}[devices.m1.options]\nmax_registers = 126\n",
        "5: devices.m1.options.max_registers: 126 is not in 1..125",
    ),
    "an override of a point that does not exist": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}[devices.m1.points.uu]\ndrop = true\n",
        '4: devices.m1.points.uu: there is no point "uu": did you mean "u"?',
    ),
    "a new name that is taken": (
        "devices/a.toml",
        f'[devices.m1]\n{DEVICE}points = {{ u = {{ rename = "e" }} }}\n',
        '4: devices.m1.points.u.rename: "e" is already the name of the point e',
    ),
    "limits that a device turns round": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}points.u.low = 600\n",
        "4: devices.m1.points.u: low: 600.0 is above high (500.0)",
    ),
    "a device without points": (
        "devices/a.toml",
        f"[devices.m1]\n{DEVICE}points = {{ u.drop = true, e.drop = true }}\n",
        "4: devices.m1.points: every point is dropped — Write enabled = false to rest the device.",
    ),
    # drivers
    "a driver without points": (
        "drivers/x.toml",
        DRIVER,
        "1: a driver needs at least one point — Write a table [points].",
    ),
    "a protocol that does not exist": (
        "drivers/x.toml",
        DRIVER.replace("modbus", "modbuss"),
        '2: protocol: "modbuss" is not one of "host", "modbus", "simulator": did you mean "modbus"?',
    ),
    "a type that does not exist": (
        "drivers/x.toml",
        f'{DRIVER}u = {{ at = "30001" }}\nv = {{ at = "30003", type = "flaot32" }}\n',
        '6: points.v.type: "flaot32" is not one of ',
    ),
    "a point of another protocol": (
        "drivers/x.toml",
        f'{DRIVER}u = {{ at = "30001", wave = "ramp" }}\n',
        '5: points.u.wave: unknown key "wave"; known are ',
    ),
    "a point's name with a capital": (
        "drivers/x.toml",
        f'{DRIVER}U = {{ at = "30001" }}\n',
        '5: points.U: "U" is not a name: use small letters, digits, _ and -',
    ),
    "a group that does not exist": (
        "drivers/x.toml",
        f'{DRIVER}u = {{ at = "30001", group = "slow" }}\n',
        '5: points.u.group: there is no group "slow" — Write [groups.slow] with every = "10s".',
    ),
    "a scale of nothing": (
        "drivers/x.toml",
        f'{DRIVER}\n[points.u]\nat = "30001"\nscale = 0\n',
        "8: points.u.scale: 0 would make every value the offset",
    ),
    "a number that is none": (
        "drivers/x.toml",
        f'{DRIVER}u = {{ at = "30001", offset = nan }}\n',
        "5: points.u.offset: nan is not a number that can be used",
    ),
    "a way to write that does not exist": (
        "drivers/x.toml",
        f'{DRIVER}u = {{ at = "40001", write = "yes" }}\n',
        '5: points.u.write: "yes" is not true or false or one of "multiple", "single"',
    ),
    "an id inside a driver": (
        "drivers/x.toml",
        f'id = "y"\n{DRIVER}u = {{ at = "30001" }}\n',
        '1: id: unknown key "id"',
    ),
    "a driver's file name with a capital": (
        "drivers/Acme X.toml",
        f'{DRIVER}u = {{ at = "30001" }}\n',
        '"Acme X" is not a name: use small letters, digits, _ and - — Rename the file, for example to acme-x.toml.',
    ),
    # uplinks
    "a broker URL with an unknown scheme": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "http://broker"\n',
        '2: uplinks.a.url: "http" is not a scheme of brokers; known are mqtt:// and mqtts://',
    ),
    "a password in a URL": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = ["mqtt://a",\n  "mqtt://user:pw@b"]\n',
        "3: uplinks.a.url[1]: a user name or password does not belong into the URL; write username, and name a file",
    ),
    "a credential that does not exist": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\nusername = "u"\npassword = "cloud"\n',
        '4: uplinks.a.password: there is no credential "cloud" in ',
    ),
    "a credential outside credentials/": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\npassword = "../fluxedge.toml"\n',
        '3: uplinks.a.password: "../fluxedge.toml" is not the name of a credential: use letters, digits, . _ and -,',
    ),
    "TLS without its key": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtts://a"\n[uplinks.a.tls]\ncertificate = "c.pem"\n',
        "3: uplinks.a.tls: certificate and key: give both or neither",
    ),
    "TLS for an unencrypted broker": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\ntls = {}\n',
        "2: uplinks.a.url: mqtt://a: [tls] has no effect on mqtt:// — Write mqtts://.",
    ),
    "a topic to publish to with a wildcard": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\ntopics.rounds = "a/#"\n',
        '3: uplinks.a.topics.rounds: "a/#" is not a topic to publish to (no +, #, not empty)',
    ),
    "commands on a topic of the answers": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\ntopics.command = "a/b"\ntopics.response = "a/b"\n',
        '3: uplinks.a.topics.command: the gateway itself publishes to "a/b"; it would answer itself',
    ),
    "a pattern of commands": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\ncommands = ["*", "m1"]\n',
        '3: uplinks.a.commands[1]: "m1" is not "DEVICE.POINT", "DEVICE.*" or "*"',
    ),
    "a choice that does not exist": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\nformat = "json-column"\n',
        '3: uplinks.a.format: "json-column" is not one of "json", "json-columns": did you mean "json-columns"?',
    ),
    "one client id twice": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\nclient_id = "x"\n[uplinks.b]\nurl = "mqtt://a:1883"\nclient_id = "x"\n',
        '6: uplinks.b.client_id: "x" is already the client id of the uplink a at this broker',
    ),
    "expiry in an old MQTT": (
        "fluxedge.toml",
        '[uplinks.a]\nurl = "mqtt://a"\nversion = "3.1.1"\nexpiry = "1h"\n',
        '4: uplinks.a.expiry: only MQTT 5 knows it; leave it out or write version = "5"',
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_with_its_file_and_line(site: Site, case: str) -> None:
    name, text, expected = MISTAKES[case]
    site.write(name, text)
    loaded = site.load()
    told = [mistake.text() for mistake in loaded.mistakes]
    separator = ":" if expected[0].isdigit() else ": "  # a file as a whole has no line
    assert [line[: len(name) + len(separator) + len(expected)] for line in told] == [f"{name}{separator}{expected}"]


def test_all_mistakes_of_all_files_are_told_at_once(site: Site) -> None:
    site.write(
        "fluxedge.toml",
        """
        [log]
        comit = "1s"
        segment = 5
        [uplinks.cloud]
        url = "http://broker"
        format = "xml"
        commands = ["all", "m1.*", 7]
        """,
    )
    site.write(
        "devices/a.toml",
        """
        [channels.bus]
        url = "serial:///dev/ttyS0?parity=X"
        timeout = "0s"
        [devices.m1]
        driver = "metre"
        channel = "tcp://10.0.0.1:0"
        unit = 300
        every = 1
        [devices.m2]
        driver = "meter"
        channel = "bus"
        points = { v = { drop = true }, u = { scale = "x", colour = 1 } }
        """,
    )
    site.write("devices/b.toml", "[devices.m3]\nx =\n")
    site.write(
        "drivers/x.toml",
        'name = 1\nprotocol = "modbus"\n[points]\na = { at = 1, tpye = "int16" }\nb = { at = "30001", group = "g" }\n',
    )
    assert [(m.file, m.line, m.path) for m in site.load().mistakes] == [
        ("devices/a.toml", 2, "channels.bus.url"),
        ("devices/a.toml", 3, "channels.bus.timeout"),
        ("devices/a.toml", 5, "devices.m1.driver"),
        ("devices/a.toml", 6, "devices.m1.channel"),
        ("devices/a.toml", 7, "devices.m1.unit"),
        ("devices/a.toml", 8, "devices.m1.every"),
        ("devices/a.toml", 12, "devices.m2.points.u.colour"),
        ("devices/a.toml", 12, "devices.m2.points.u.scale"),
        ("devices/a.toml", 12, "devices.m2.points.v"),
        ("devices/b.toml", 2, ""),
        ("drivers/x.toml", 1, ""),
        ("drivers/x.toml", 1, "name"),
        ("drivers/x.toml", 4, "points.a.at"),
        ("drivers/x.toml", 4, "points.a.tpye"),
        ("drivers/x.toml", 5, "points.b.group"),
        ("fluxedge.toml", 2, "log.comit"),
        ("fluxedge.toml", 3, "log.segment"),
        ("fluxedge.toml", 5, "uplinks.cloud.url"),
        ("fluxedge.toml", 6, "uplinks.cloud.format"),
        ("fluxedge.toml", 7, "uplinks.cloud.commands[2]"),
    ]


def told(loaded: Loaded) -> list[str]:
    return [f"{m.file}:{m.line}: {m.path}: {m.message}" for m in loaded.mistakes]


def test_what_cannot_be_decoded_and_what_cannot_be_compiled_is_told_at_once(site: Site) -> None:
    site.write(
        "drivers/x.toml",
        f"""{DRIVER}a = {{ at = "30001", type = "flaot32" }}
b = {{ at = "hr:65535", type = "float32" }}
c = {{ at = 30005, scale = 2 }}
d = {{ at = "30007.99" }}
e = {{ at = "50001" }}
good = {{ at = "30009" }}
""",
    )
    site.write("devices/a.toml", '[devices.m1]\ndriver = "x"\nchannel = "tcp://10.0.0.1"\n')
    loaded = site.load(apply.findings)
    assert [line.partition(": points")[0] for line in told(loaded)] == [f"drivers/x.toml:{n}" for n in range(5, 10)]
    assert [mistake.path for mistake in loaded.mistakes] == [
        "points.a.type", "points.b.at", "points.c.at", "points.d.at", "points.e.at",
    ]  # fmt: skip
    assert loaded.left_out["device:m1"] == "its driver x cannot be used"


def test_a_point_with_a_mistake_causes_no_others(site: Site) -> None:
    site.write(
        "drivers/x.toml",
        """
        name = 5
        protocol = "modbus"
        [options]
        max_registers = 0
        order = "ABDC"
        [groups.slow]
        every = 60
        [points]
        a = { at = "50001", type = "flaot64", order = "GHEFCDAB", group = "slow" }
        b = { tpye = "string", at = "30001", length = 4, enum = { x = "on" } }
        c = { type = "int16", group = "slow", enum = { x = "on" } }
        d = { at = "30007", group = "fast", min = 2, max = 1, label = 1 }
        E = { at = "30009", scale = 0 }
        """,
    )
    points = 'a.rename = "c"\nc.unit = "V"\nE.unit = "V"\n'
    site.write("devices/a.toml", f'[devices.m1]\ndriver = "x"\nchannel = "tcp://a"\n[devices.m1.points]\n{points}')
    assert [mistake.path for mistake in site.load(apply.findings).mistakes] == [
        "",  # "source" is missing
        "name",
        "options.max_registers",
        "options.order",
        "groups.slow.every",
        "points.a.at",
        "points.a.type",
        "points.b.enum.x",
        "points.b.tpye",
        "points.c",  # "at" is missing
        "points.d.group",
        "points.d.label",
        "points.d.min",
        "points.E",
        "points.E.scale",
    ]


def test_a_device_is_compiled_with_what_is_right_in_it(site: Site) -> None:
    site.write(
        "drivers/x.toml", f'{DRIVER}u = {{ at = "30001", type = "string", length = 4 }}\nv = {{ at = "30005" }}\n'
    )
    site.write(
        "devices/a.toml",
        """
        [devices.m1]
        driver = "x"
        channel = "tcp://10.0.0.1"
        unit = 300
        every = 5
        options = { order = "ABDC", max_gap = -1 }
        [devices.m1.points.u]
        scale = 2
        [devices.m1.points.v]
        low = "x"
        high = 7
        """,
    )
    site.write(
        "devices/b.toml",
        '[devices.m2]\ndriver = "x"\nchannel = "bus"\nunit = 1\nunits = "1-3"\n[devices.m2.points.u]\nlow = 1\n',
    )
    assert [(m.file, m.line, m.path) for m in site.load(apply.findings).mistakes] == [
        ("devices/a.toml", 4, "devices.m1.unit"),
        ("devices/a.toml", 5, "devices.m1.every"),
        ("devices/a.toml", 6, "devices.m1.options.max_gap"),
        ("devices/a.toml", 6, "devices.m1.options.order"),
        ("devices/a.toml", 8, "devices.m1.points.u.scale"),
        ("devices/a.toml", 10, "devices.m1.points.v.low"),
        ("devices/b.toml", 1, "devices.m2"),
        ("devices/b.toml", 3, "devices.m2.channel"),
        ("devices/b.toml", 7, "devices.m2.points.u.low"),
    ]


def test_a_device_and_its_driver_are_told_about_together(site: Site) -> None:
    site.write(
        "drivers/x.toml", f'every = 1\n{DRIVER}u = {{ at = 1 }}\nv = {{ at = "30005", type = "string", length = 4 }}\n'
    )
    site.write(
        "devices/a.toml",
        '[devices.m1]\ndriver = "x"\nunit = -1\n[devices.m1.points]\nu.unit = "V"\nv.scale = 2\nw.unit = "V"\n',
    )
    assert [(m.file, m.path) for m in site.load(apply.findings).mistakes] == [
        ("devices/a.toml", "devices.m1"),  # it needs a channel
        ("devices/a.toml", "devices.m1.unit"),
        ("devices/a.toml", "devices.m1.points.v.scale"),
        ("devices/a.toml", "devices.m1.points.w"),
        ("drivers/x.toml", "every"),
        ("drivers/x.toml", "points.u.at"),
    ]


def test_a_driver_that_no_device_names_yet_is_compiled_too(site: Site) -> None:
    site.write("drivers/x.toml", f'{DRIVER}u = {{ at = "50001" }}\n')
    site.write("drivers/y.toml", 'name = "Y"\nprotocol = "host"\nsource = "none"\n[points]\nc = { metric = "cpuu" }\n')
    loaded = site.load(apply.findings)
    assert [(m.file, m.path) for m in loaded.mistakes] == [
        ("drivers/x.toml", "points.u.at"),
        ("drivers/y.toml", "points.c.metric"),
    ]
    assert set(loaded.left_out) == {"driver:x", "driver:y"}


def test_a_good_configuration_is_tried_without_a_word(site: Site) -> None:
    site.write(
        "devices/a.toml", f'[devices.m1]\n{DEVICE}[devices.gw]\ndriver = "host"\n[devices.w]\ndriver = "waves"\n'
    )
    site.write("drivers/x.toml", f'{DRIVER}u = {{ at = "40001" }}\n')
    loaded = site.load(apply.findings)
    assert loaded.mistakes == ()
    assert sorted(loaded.config.devices) == ["gw", "m1", "w"]
    assert sorted(loaded.config.channels) == ["tcp-10-0-0-1-502"]


def test_a_mistake_costs_its_own_item_only(site: Site) -> None:
    site.write("devices/a.toml", f"[devices.m1]\n{DEVICE}unit = 300\n[devices.m2]\n{DEVICE}unit = 2\n")
    loaded = site.load()
    assert list(loaded.config.devices) == ["m2"]
    assert loaded.left_out == {"device:m1": "devices/a.toml:4: devices.m1.unit: 300 is not in 0..247"}
    assert not loaded.fatal


def test_no_file_at_all_means_the_defaults(site: Site) -> None:
    loaded = site.load()
    assert loaded.config == Config()
    assert (loaded.mistakes, loaded.warnings, loaded.fatal) == ((), (), False)


def test_a_device_file_as_in_the_documentation_loads(site: Site) -> None:
    site.write(
        "devices/hall-a.toml",
        """
        [channels.rs485-1]
        url = "serial:///dev/serial/by-id/usb-FTDI_FT232R-if00?baud=9600&parity=N"

        [devices.meter-1]
        driver = "meter"
        label = "一号车间总表"
        channel = "rs485-1"
        unit = 1
        every = "1s"
        """,
    )
    loaded = site.load()
    assert (loaded.mistakes, loaded.warnings) == ((), ())
    device = loaded.config.devices["meter-1"]
    assert (device.label, device.channel, device.unit, device.every_s) == ("一号车间总表", "rs485-1", 1, 1.0)
    driver = loaded.config.drivers["meter"]
    assert (driver.id, driver.points["u"].unit) == ("meter", "V")
    assert isinstance(driver.options, ModbusOptionsCfg)
    assert driver.options.max_registers == 40
    assert loaded.place("device:meter-1") == "devices/hall-a.toml:4"
    assert loaded.place("device:meter-1", ("unit",)) == "devices/hall-a.toml:8"


def test_a_mark_of_windows_editors_and_their_line_ends_are_no_mistake(site: Site) -> None:
    site.write("devices/a.toml", f"\ufeff[devices.m1]\n{DEVICE}unit = 300".replace("\n", "\r\n").encode())
    assert [mistake.line for mistake in site.load().mistakes] == [4]


def test_two_files_must_not_give_one_name(site: Site) -> None:
    site.write("devices/a.toml", f"[devices.m1]\n{DEVICE}")
    site.write("devices/b.toml", f"# moved\n[devices.m1]\n{DEVICE}")
    loaded = site.load()
    assert [mistake.text() for mistake in loaded.mistakes] == [
        'devices/b.toml:2: devices.m1: there is a device "m1" already, in devices/a.toml:1'
        " — Rename or remove one of them."
    ]
    assert loaded.config.devices == {}


def test_an_upper_layer_replaces_an_item_of_a_lower_one(site: Site) -> None:
    below = site.state / "site" / "devices"
    below.mkdir(parents=True)
    (below / "web.toml").write_text(f"[devices.m1]\n{DEVICE}unit = 8\n[devices.m2]\n{DEVICE}unit = 9\n")
    site.write("devices/a.toml", f"[devices.m1]\n{DEVICE}unit = 7\n")
    loaded = site.load()
    assert loaded.mistakes == ()
    assert {id_: cfg.unit for id_, cfg in loaded.config.devices.items()} == {"m1": 7, "m2": 9}


def test_a_driver_of_the_site_replaces_the_shipped_one(site: Site) -> None:
    site.write("devices/a.toml", f"[devices.m1]\n{DEVICE}")
    site.write("drivers/meter.toml", f'{DRIVER}mine = {{ at = "30001" }}\n')
    assert list(site.load().config.drivers["meter"].points) == ["mine"]


def test_shipped_drivers_are_read_only_when_a_device_names_them(site: Site) -> None:
    (site.shipped / "broken.toml").write_text("x = \n")
    site.write("devices/a.toml", f"[devices.m1]\n{DEVICE}")
    loaded = site.load()
    assert loaded.mistakes == ()
    assert list(loaded.config.drivers) == ["meter"]
    site.write("devices/b.toml", '[devices.m2]\ndriver = "broken"\nchannel = "tcp://b"\n')
    assert [(mistake.file, mistake.line) for mistake in site.load().mistakes] == [(f"{site.shipped}/broken.toml", 1)]


def test_a_device_is_not_blamed_for_its_driver(site: Site) -> None:
    site.write("devices/a.toml", f"[devices.m1]\n{DEVICE}")
    for text in ("x =\n", DRIVER):
        site.write("drivers/meter.toml", text)
        loaded = site.load()
        assert [mistake.file for mistake in loaded.mistakes] == ["drivers/meter.toml"]
        assert loaded.left_out["device:m1"] == "its driver meter cannot be used"


def test_a_device_is_not_blamed_for_a_channel_in_a_file_that_cannot_be_read(site: Site) -> None:
    site.write("devices/a.toml", "[channels.bus]\nurl = tcp\n")
    site.write("devices/b.toml", '[devices.m1]\ndriver = "meter"\nchannel = "bus"\n')
    loaded = site.load()
    assert [mistake.file for mistake in loaded.mistakes] == ["devices/a.toml"]
    assert loaded.left_out["device:m1"] == "its channel bus may stand in devices/a.toml, which cannot be read"


def test_folders_of_later_parts_and_files_of_editors_are_ignored(site: Site) -> None:
    for name in (
        "plugins/x.toml",
        "rules/x.lua",
        "cameras/x.toml",
        "devices/.a.toml.swp",
        "devices/.b.toml",
        "devices/a.toml~",
    ):
        site.write(name, "not TOML")
    loaded = site.load()
    assert (loaded.mistakes, loaded.warnings) == ((), ())


def test_what_looks_like_configuration_but_is_not_read_is_warned_about(site: Site) -> None:
    site.write("device/a.toml", "")
    site.write("meters.toml", "")
    assert [warning.text() for warning in site.load().warnings] == [
        "device: is not read: did you mean devices/?",
        "meters.toml: is not read: fluxedge.toml, devices/*.toml and drivers/*.toml are",
    ]


def test_a_folder_or_a_dead_link_in_the_place_of_a_file_is_a_mistake(site: Site) -> None:
    (site.folder / "devices" / "a.toml").mkdir(parents=True)
    (site.folder / "devices" / "b.toml").symlink_to("nothing.toml")
    assert [mistake.text() for mistake in site.load().mistakes] == [
        "devices/a.toml: is a directory; a file is wanted",
        "devices/b.toml: is a link to a file that does not exist",
    ]


def test_a_port_that_changes_its_name_is_warned_about(site: Site) -> None:
    site.write("devices/a.toml", '[devices.m1]\ndriver = "meter"\nchannel = "serial:///dev/ttyUSB0"\n')
    loaded = site.load()
    assert loaded.mistakes == ()
    assert [warning.text() for warning in loaded.warnings] == [
        "devices/a.toml:3: devices.m1.channel: /dev/ttyUSB0 can be another port after the next start — "
        "Use the name in /dev/serial/by-id that links to it."
    ]


def test_a_channel_that_nobody_uses_is_warned_about(site: Site) -> None:
    site.write("devices/a.toml", '[channels.bus]\nurl = "tcp://a"\n')
    loaded = site.load()
    assert [warning.text() for warning in loaded.warnings] == [
        "devices/a.toml:1: channels.bus: no device uses this channel"
    ]
    assert list(loaded.config.channels) == ["bus"]


def test_what_a_protocol_finds_gets_its_place(site: Site) -> None:
    site.write("devices/a.toml", f'[devices.bank]\n{DEVICE}units = "1-2"\n[devices.ok]\n{DEVICE}unit = 9\n')
    site.write("drivers/own.toml", f'{DRIVER}u = {{ at = "30001" }}\n')
    seen: list[list[str]] = []

    def compile(config: Config) -> list[Finding]:
        seen.append(sorted(config.devices))
        found = [Finding(f"device:{id_}", ("units",), "too many", "Fewer.") for id_ in config.devices if "bank" in id_]
        return [*found, Finding("driver:own", ("points", "u", "at"), "no such area")] if found else []

    loaded = site.load(compile)
    assert [mistake.text() for mistake in loaded.mistakes] == [
        "devices/a.toml:4: devices.bank.units: too many — Fewer.",
        "drivers/own.toml:5: points.u.at: no such area",
    ]
    assert list(loaded.config.devices) == ["ok"]
    assert seen == [["bank-1", "bank-2", "ok", "own@driver"], ["ok"]]


def test_a_directory_that_does_not_exist_is_fatal(site: Site) -> None:
    site.folder.rmdir()
    loaded = site.load()
    assert loaded.fatal
    assert [mistake.text() for mistake in loaded.mistakes] == [
        f"{site.folder}: there is no such directory — Name the directory with --config."
    ]
