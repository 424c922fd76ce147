"""Taking secrets out."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from fluxedge.config.load import Layout
from fluxedge.doctor.redact import HIDDEN, Redactor, assigned, known_secrets, of_credential


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ('password = "hunter2!"', "hunter2!"),
        ("password = 'hunter2!'", "hunter2!"),
        ("password = 12345678", "12345678"),
        ('Passwort = "geheim-1"', "geheim-1"),
        ('api_key = "abcdef"', "abcdef"),
        ('tls = { key = "not-a-file", ca = "x" }', "not-a-file"),
        ('tokens = ["first-one", "second-one"]', "second-one"),
        ('secret = """\nline one\nline two\n"""', "line two"),
        ('password = "never closed', "never closed"),
        ("auth_token=bare-word-1 # remark", "bare-word-1"),
        (r'password = "a\"quoted"', 'a"quoted'),
        ('"password": "in-json"', "in-json"),
        ('username = "a-long-access-token"', "a-long-access-token"),
        ('url = "mqtt://ann:p%40ss@host"', "p%40ss"),
        ('url = "mqtt://ann:p/w@host"', "p/w"),
        ('url = "mqtt://only-a-token@host"', "only-a-token"),
    ],
)
def test_a_secret_in_a_configuration_file_is_known(line: str, secret: str) -> None:
    assert secret in assigned(f"[uplinks.a]\nlabel = 'x'\n{line}\nformat = 'json'\n")


def test_the_name_of_a_credential_and_a_path_are_no_secrets() -> None:
    text = 'password = "broker"\nkey = "/etc/ssl/own.pem"\nusername = "ann"\nurl = "mqtt://host:1883"\n'
    assert assigned(text, ["broker"]) == set()


def test_a_credential_is_secret_as_a_whole_and_by_line() -> None:
    assert of_credential("one\ntwo\n") == {"one\ntwo", "one", "two"}
    assert of_credential("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n") == set()
    assert "MIIB" in of_credential("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")


@pytest.mark.parametrize(
    "text",
    [
        "refused: pass-word-1",
        'there is no credential "pass-word-1" in /etc',
        "url mqtt://ann:pass-word-1@host/",
        "shortened to pass-wor… here",
        "shortened to pass-word-… here",
    ],
)
def test_a_known_secret_is_found_in_every_sentence(text: str) -> None:
    found = Redactor(["pass-word-1"]).text(text)
    assert "pass-wor" not in found
    assert HIDDEN in found


@pytest.mark.parametrize("secret", ['quo"te\\back', "späß-wört", "p@ss/word", "it's\tmine"])
def test_a_secret_is_found_however_it_is_written(secret: str) -> None:
    redactor = Redactor([secret])
    for text in (secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)):
        assert not redactor.leaks(redactor.text(f"x {text} y").encode())
        assert HIDDEN in redactor.text(f"x {text} y")


def test_unknown_users_and_keys_go_by_their_shape() -> None:
    redactor = Redactor([])
    assert redactor.text("to mqtts://ann:pw@b.example:8883, now") == f"to mqtts://{HIDDEN}@b.example:8883, now"
    assert redactor.text("GET /?access_token=abc&x=1") == f"GET /?access_token={HIDDEN}&x=1"
    key = "-----BEGIN EC PRIVATE KEY-----\nMIIB\n-----END EC PRIVATE KEY-----"
    assert redactor.text(f"a {key} b") == f"a {HIDDEN} b"
    assert redactor.text("a -----BEGIN PRIVATE KEY-----\nMIIB") == f"a {HIDDEN}"


def test_what_is_below_a_key_of_a_secret_goes_as_a_whole() -> None:
    data = {
        "uplinks": {"a": {"username": "ann", "password": "x", "tls": {"key": "k", "ca": "c"}}},
        "secrets": {"a": "b"},
    }
    assert Redactor([]).data(data) == {
        "uplinks": {"a": {"username": HIDDEN, "password": HIDDEN, "tls": {"key": HIDDEN, "ca": "c"}}},
        "secrets": HIDDEN,
    }
    assert Redactor([]).data({"password": "", "autonomy_h": 3, "ok": True}) == {
        "password": "",
        "autonomy_h": 3,
        "ok": True,
    }


def test_a_short_secret_takes_no_ordinary_words_apart() -> None:
    redactor = Redactor(["a1"])
    assert redactor.text('channel a11 has no "a1"') == f'channel a11 has no "{HIDDEN}"'
    assert redactor.data({"label": "a1"}) == {"label": HIDDEN}


def test_a_number_that_is_a_secret_is_found_in_data() -> None:
    assert Redactor(["12345678"]).data({"x": 12345678, "y": 1, "z": True}) == {"x": HIDDEN, "y": 1, "z": True}


def test_every_file_of_a_gateway_is_looked_through(tmp_path: Path) -> None:
    etc, state = tmp_path / "etc", tmp_path / "state"
    for name, text in {
        "etc/fluxedge.toml": 'password = "in-main-1"',
        "etc/devices/a.toml": 'token = "in-device-1"',
        "etc/credentials/broker": "in-credential-1\n",
        "state/site/devices/b.toml": 'secret = "in-site-1"',
        "state/last-good/config.json": '{"password": "in-last-good-1"}',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = known_secrets(Layout(etc, state))
    assert {"in-main-1", "in-device-1", "in-credential-1", "in-site-1", "in-last-good-1"} <= found
    assert known_secrets(Layout(tmp_path / "none", None)) == set()


@pytest.mark.parametrize("piece", ["pass", "a", "pass=[", '"password="""', "://", "-----BEGIN PRIVATE KEY-----"])
def test_a_hostile_file_does_not_make_it_slow(piece: str) -> None:
    text = piece * (50_000 // len(piece))
    begun_s = time.monotonic()
    assigned(text)
    Redactor(["some-secret"]).text(text)
    assert time.monotonic() - begun_s < 10
