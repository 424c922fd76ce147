"""The life of a box: install, configure, break, kill, upgrade, reboot, remove. In this order, on one guest."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.box.guest import Guest

pytestmark = pytest.mark.box

INSTALL = "apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold"
FILE = "/etc/fluxedge/devices/hall.toml"
SMOKE = Path(__file__).resolve().parents[2] / "debian/tests/smoke"
MOST_EXPOSED = 1.8
UPGRADE_S = 1.0


def write_device(box: Guest, name: str) -> None:
    (box.root / FILE.lstrip("/")).write_text(f'[devices.{name}]\ndriver = "simulator"\nevery = "1s"\n')


def devices(box: Guest) -> list[str]:
    return [device["id"] for device in box.json("status devices")]


def heads(box: Guest) -> dict[str, int]:
    """Return lane -> the newest record's number."""
    return {lane["lane"]: lane["head"] for lane in box.json("status")["log"]["lanes"]}


def drop_in(box: Guest, *lines: str) -> None:
    """Put settings in front of the unit's, or take them away, and restart."""
    folder = "/etc/systemd/system/fluxedge.service.d"
    text = "\\n".join(("[Service]", *lines, ""))
    box.sh(f"mkdir -p {folder}; printf '{text}' > {folder}/box.conf" if lines else f"rm -r {folder}")
    box.sh("systemctl daemon-reload; systemctl restart fluxedge")


def stopped_for_s(box: Guest) -> float:
    """Return how long the last restart took, from the order to stop to READY."""
    left_us, back_us = box.show("ActiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    return (int(back_us) - int(left_us)) / 1e6


def test_apt_installs_starts_and_enables_the_service_and_says_what_to_do_next(box: Guest) -> None:
    text = box.sh(f"{INSTALL} /root/fluxedge.deb")
    assert "fluxedge drivers ls" in text
    assert box.states() == ["active", "enabled"]
    assert box.show("User", "Type", "NRestarts") == ["fluxedge", "notify", "0"]
    assert "0 of 0 devices online" in box.show("StatusText")[0]


def test_nothing_listens_on_the_network(box: Guest) -> None:
    lines = box.sh("ss -Hltnup").splitlines()
    assert [line for line in lines if "fluxedge" in line or "python" in line] == []


def test_only_one_conffile_and_secrets_are_for_the_daemon_and_root(box: Guest) -> None:
    assert box.sh("dpkg-query -W -f '${Conffiles}' fluxedge").split()[::2] == ["/etc/fluxedge/fluxedge.toml"]
    assert box.sh("stat -c '%a %U:%G' /etc/fluxedge/credentials").strip() == "750 root:fluxedge"
    assert box.sh("find /etc/fluxedge -user fluxedge -o -perm -o+w").strip() == ""
    assert box.sh("stat -c '%a %U:%G' /run/fluxedge/api.sock").strip() == "660 fluxedge:fluxedge"


def test_the_unit_is_no_more_exposed_than_it_must_be(box: Guest) -> None:
    line = box.sh("systemd-analyze security fluxedge --no-pager | tail -1")
    score = float(re.findall(r"\d+\.\d+", line)[0])
    print(f"exposure {score}")
    assert score <= MOST_EXPOSED


def test_the_command_line_of_the_package_is_whole(box: Guest) -> None:
    assert "eastron-sdm630" in box.sh("fluxedge drivers ls")
    assert "No problems" in box.sh("fluxedge status")
    assert box.sh("fluxedge check") is not None
    done = "COMP_WORDS=(fluxedge sta) COMP_CWORD=1; _fluxedge; echo ${COMPREPLY[@]}"
    assert box.sh(f"source /usr/share/bash-completion/completions/fluxedge; {done}").split() == ["status"]


def test_a_reload_takes_a_device_which_is_polled(box: Guest) -> None:
    write_device(box, "hall-a")
    box.sh("systemctl reload fluxedge")
    assert devices(box) == ["hall-a"]
    assert "level" in box.sh("fluxedge read hall-a")
    end_s = time.monotonic() + 20
    while "1 of 1 devices online" not in box.show("StatusText")[0]:
        assert time.monotonic() < end_s, box.show("StatusText")
        time.sleep(0.2)


def test_what_is_polled_reaches_a_broker_and_nothing_is_missing(box: Guest) -> None:
    box.sh("systemctl start mosquitto")
    with (box.root / "etc/fluxedge/fluxedge.toml").open("a") as file:
        file.write('\n[uplinks.local]\nurl = "mqtt://127.0.0.1"\n')
    box.sh("systemctl reload fluxedge")
    print(box.sh("fluxedge verify --broker mqtt://127.0.0.1 --duration 5s"))


def test_the_children_run_in_the_sandbox_at_low_priority(box: Guest) -> None:
    assert "hall-a.level" in box.sh("fluxedge history hall-a.level")
    lines = box.sh("ps -o ni=,args= -u fluxedge").splitlines()
    readers = [line.split()[0] for line in lines if "fluxedge.log.history.reader" in line]
    assert readers == ["10"], lines
    assert box.ask("journalctl -u fluxedge -o cat -p err --no-pager").strip() in ("", "-- No entries --")


def test_a_reload_of_a_broken_file_fails_with_the_reason_and_what_ran_goes_on(box: Guest) -> None:
    box.sh(f"echo '[devices.' > {FILE}")
    box.refused("systemctl reload fluxedge")
    assert "hall.toml" in box.sh("journalctl -u fluxedge -o cat --no-pager | tail -20")
    assert devices(box) == ["hall-a"]


def test_a_start_with_a_broken_file_uses_the_last_good_one_and_says_so(box: Guest) -> None:
    box.sh("systemctl restart fluxedge")
    assert devices(box) == ["hall-a"]
    assert "using-last-good" in box.sh("fluxedge status problems")
    write_device(box, "hall-a")
    box.sh("systemctl reload fluxedge")


def test_an_unusable_main_file_without_a_last_good_one_fails_at_once_and_does_not_loop(box: Guest) -> None:
    main = "/etc/fluxedge/fluxedge.toml"
    box.sh(f"systemctl stop fluxedge; mv /var/lib/fluxedge/last-good /root/; cp {main} /root/; echo '[' >> {main}")
    box.refused("systemctl start fluxedge")
    assert box.show("ExecMainStatus", "NRestarts") == ["78", "0"]
    box.sh(f"cp /root/fluxedge.toml {main}; mv /root/last-good /var/lib/fluxedge/; systemctl start fluxedge")


def test_the_journal_has_fields_of_our_own(box: Guest) -> None:
    assert "hall.toml" in box.sh("journalctl FLUXEDGE_CODE=config-syntax -o cat --no-pager | tail -5")
    box.sh(f"printf '[devices.hall-b]\\ndriver = \"no-such\"\\n' > {FILE}")
    box.refused("systemctl reload fluxedge")
    assert "no-such" in box.sh("journalctl FLUXEDGE_DEVICE=hall-b -o cat --no-pager | tail -5")
    write_device(box, "hall-a")
    box.sh("systemctl reload fluxedge")


def test_a_killed_daemon_is_back_in_seconds(box: Guest) -> None:
    pid = box.show("MainPID")[0]
    box.sh(f"kill -9 {pid}")
    box.back_after(pid)
    assert devices(box) == ["hall-a"]


def test_a_daemon_that_hangs_says_where_and_is_restarted_by_the_watchdog(box: Guest) -> None:
    drop_in(box, "WatchdogSec=2")
    pid = box.show("MainPID")[0]
    box.sh(f"kill -STOP {pid}")
    box.back_after(pid)
    assert "(most recent call first)" in box.sh(f"journalctl -u fluxedge _PID={pid} -o cat --no-pager")
    drop_in(box)


def test_stop_ends_the_children_too(box: Guest) -> None:
    box.sh("systemctl stop fluxedge")
    assert box.show("Result") == ["success"]
    box.refused("pgrep -u fluxedge")
    box.sh("systemctl start fluxedge")


def test_what_the_package_promises_to_autopkgtest_holds(box: Guest) -> None:
    """debian/tests/smoke is the same on a machine of Debian's; it needs no network."""
    box.put(SMOKE, "/root/smoke")
    box.sh("cp -a /etc/fluxedge/devices /root/; bash /root/smoke; cp /root/devices/* /etc/fluxedge/devices/")
    box.sh("systemctl reload fluxedge")
    assert devices(box) == ["hall-a"]


def test_an_upgrade_keeps_edits_and_data_and_stops_for_less_than_a_second(box: Guest) -> None:
    box.sh("echo '# local' >> /etc/fluxedge/fluxedge.toml")
    box.sh("dpkg-deb -R /root/fluxedge.deb /root/next && sed -i 's/^Version: .*/&+next/' /root/next/DEBIAN/control")
    box.sh("dpkg-deb -Zgzip --root-owner-group -b /root/next /root/next.deb; rm -r /root/next")
    before = heads(box)
    box.sh(f"{INSTALL} /root/next.deb")
    assert box.sh("dpkg-query -W -f '${Version}' fluxedge").endswith("+next")
    away_s = stopped_for_s(box)
    box.sh("systemctl restart fluxedge")
    control_s = stopped_for_s(box)  # other programs may use the machine at the same time
    print(f"upgrade: away for {away_s:.2f} s; a restart: {control_s:.2f} s")
    assert away_s < max(UPGRADE_S, 2 * control_s)
    assert box.sh("tail -1 /etc/fluxedge/fluxedge.toml") == "# local\n"
    assert heads(box)["rounds"] >= before["rounds"] > 0


def test_a_reboot_brings_it_back_by_itself(box: Guest) -> None:
    box.reboot()
    assert box.states() == ["active", "enabled"]
    assert devices(box) == ["hall-a"]


def test_a_disabled_service_stays_disabled_over_an_upgrade(box: Guest) -> None:
    box.sh(f"systemctl disable --now fluxedge; {INSTALL} --reinstall /root/next.deb")
    assert box.states() == ["inactive", "disabled"]


def test_remove_keeps_configuration_and_state(box: Guest) -> None:
    box.sh("apt-get remove -y fluxedge")
    box.sh("test -f /etc/fluxedge/fluxedge.toml && test -f /var/lib/fluxedge/log.db && ! test -e /usr/lib/fluxedge")


def test_purge_leaves_what_the_administrator_made_and_nothing_else(box: Guest) -> None:
    box.sh("apt-get purge -y fluxedge; rm -f /root/fluxedge.*")
    everything = "find / -xdev -iname '*fluxedge*' -not -path '/root/*' -not -path '/proc/*'"
    left = box.sh(f"{everything}; find /etc/fluxedge -type f").split()
    assert left == ["/etc/fluxedge", FILE]
