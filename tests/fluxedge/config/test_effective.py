from __future__ import annotations

import json
import typing

from fluxedge.config.effective import effective

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site


def test_everything_is_shown_but_secrets(site: Site) -> None:
    site.write("credentials/cloud", "hunter2").chmod(0o600)
    site.write("fluxedge.toml", '[uplinks.a]\nurl = "mqtt://a"\nusername = "u"\npassword = "cloud"\n')
    site.write("devices/a.toml", '[devices.m1]\ndriver = "meter"\nchannel = "tcp://a"\noptions.turnaround = "5ms"\n')
    loaded = site.load()
    assert loaded.mistakes == ()
    shown = effective(loaded.config)
    assert "hunter2" not in json.dumps(shown)
    assert shown["secrets"] == {"cloud": "***"}
    assert shown["log"]["commit"] == "1s"
    assert shown["uplinks"]["a"]["password"] == "cloud"
    assert shown["devices"]["m1"]["options"] == {"turnaround": "5ms"}
    assert shown["drivers"]["meter"]["options"]["max_registers"] == 40
    assert shown["drivers"]["meter"]["points"]["u"]["at"] == "30001"
