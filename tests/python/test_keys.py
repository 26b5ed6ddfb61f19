"""Keys and settings of `coppice serve`: who may come in, and what it says to a wrong setting."""

from pathlib import Path

import pytest
from e2b import AuthenticationException, Sandbox

from gateway import KEY, coppice

pytestmark = pytest.mark.local("starts gateways with settings of its own")

REFUSED = "settings that are looked at before anybody comes"
GOOD, OTHER, WRONG = ("e2b_" + digit * 40 for digit in "123")


def serve(*flags, env=None):
    """Starts a gateway that should refuse to; gives what it says."""
    done = coppice("serve", *flags, env=env, patience=20)
    assert done.returncode not in (0, None)
    assert "listening" not in done.stdout
    assert "panicked" not in done.stderr
    return done.stderr


@pytest.fixture(params=["environment", "file"])
def guarded(request, new_gateway, short_dir):
    """A gateway that knows two keys."""
    if request.param == "environment":
        return new_gateway(env={"COPPICE_API_KEYS": f"{GOOD},{OTHER}"}).start()
    keys = short_dir / "keys"
    keys.write_text(f"{GOOD}\n{OTHER}\n")
    return new_gateway("--api-keys-file", str(keys)).start()


def test_only_a_known_key_comes_in(guarded):
    for key in (GOOD, OTHER):
        with guarded.http(**{"X-API-Key": key}) as http:
            assert http.get("/v2/sandboxes").status_code == 200
    for key in (WRONG, KEY, GOOD[:-1], GOOD + "1", GOOD.upper(), "", None):
        with guarded.http(**{"X-API-Key": key}) as http:
            for answer in (
                http.get("/v2/sandboxes"),
                http.post("/v2/sandboxes", json={"templateID": "base"}),
                http.delete(f"/sandboxes/{'0' * 32}"),
            ):
                assert answer.status_code == 401
                assert answer.json()["code"] == 401 and answer.json()["message"]
            assert http.get("/health").status_code == 200


def test_the_sdk_is_told_that_its_key_is_wrong(guarded):
    with pytest.raises(AuthenticationException):
        Sandbox.create(**{**guarded.opts, "api_key": WRONG})
    with Sandbox.create(**{**guarded.opts, "api_key": GOOD}) as sandbox:
        assert sandbox.commands.run("echo in").stdout == "in\n"


def test_keys_are_never_in_the_log(guarded):
    with guarded.http(**{"X-API-Key": WRONG}) as http:
        http.get("/v2/sandboxes")
    guarded.end()
    log = (guarded.base / "log").read_text()
    assert GOOD not in log and OTHER not in log and WRONG not in log


@pytest.mark.plain(REFUSED)
@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:3000"])
def test_a_listener_for_others_needs_keys_and_says_how_to_make_one(short_dir, address):
    said = serve("--listen", address, "--data-dir", short_dir)
    assert "COPPICE_API_KEYS" in said or "--api-keys-file" in said


WRONG_SETTINGS = {
    "listen": ["--listen", "nowhere"],
    "port": ["--listen", "127.0.0.1:70000"],
    "backend": ["--backend", "magic"],
    "jail on Linux": ["--backend", "jail"],
    "log format": ["--log-format", "xml"],
    "log level": ["--log-level", "shouting"],
    "number": ["--max-sandboxes", "many"],
    "resolver": ["--dns", "not-an-address"],
    "keys file": ["--api-keys-file", "/no/such/file"],
    "config": ["--config", "/no/such/file.toml"],
    "domain": ["--domain", "not a domain"],
}


@pytest.mark.plain(REFUSED)
@pytest.mark.parametrize("what", WRONG_SETTINGS)
def test_a_wrong_value_is_named_in_the_error(short_dir, what):
    flag, value = WRONG_SETTINGS[what]
    said = serve("--data-dir", short_dir, flag, value)
    assert value in said or flag in said


@pytest.mark.plain(REFUSED)
def test_an_unknown_flag_is_refused(short_dir):
    assert "--no-such-flag" in serve("--data-dir", short_dir, "--no-such-flag")


@pytest.mark.plain(REFUSED)
def test_a_wrong_value_in_the_environment_is_named(short_dir):
    said = serve("--data-dir", short_dir, env={"COPPICE_LISTEN": "nowhere"})
    assert "nowhere" in said or "COPPICE_LISTEN" in said


@pytest.mark.plain(REFUSED)
@pytest.mark.parametrize("text", ["listen = [", 'listne = "127.0.0.1:0"', "listen = 5"])
def test_a_wrong_config_file_is_refused_with_its_name(short_dir, text):
    config = short_dir / "coppice.toml"
    config.write_text(text)
    assert str(config) in serve("--config", config, "--data-dir", short_dir / "d")


@pytest.mark.plain(REFUSED)
def test_a_path_too_long_for_sockets_is_refused(short_dir):
    deep = short_dir / ("d" * 100)
    assert str(deep) in serve("--listen", "127.0.0.1:0", "--data-dir", deep)


@pytest.mark.plain(REFUSED)
def test_an_empty_keys_file_does_not_open_the_door(short_dir):
    keys = short_dir / "keys"
    keys.write_text("\n")
    said = serve("--listen", "127.0.0.1:0", "--data-dir", short_dir / "d", "--api-keys-file", keys)
    assert str(keys) in said


@pytest.mark.plain(REFUSED)
@pytest.mark.parametrize(
    ("flag", "env", "file", "expected"),
    [
        ("flag.test", "env.test", "file.test", "flag.test"),
        (None, "env.test", "file.test", "env.test"),
        (None, None, "file.test", "file.test"),
    ],
)
def test_a_flag_beats_the_environment_and_that_beats_the_file(
    new_gateway, short_dir, flag, env, file, expected
):
    config = short_dir / "coppice.toml"
    config.write_text(f'domain = "{file}"\n')
    gateway = new_gateway(
        "--config",
        config,
        *(["--domain", flag] if flag else []),
        env={"COPPICE_DOMAIN": env} if env else None,
    ).start()
    with Sandbox.create(**gateway.opts) as sandbox:
        assert sandbox.sandbox_domain == expected


def test_the_data_directory_is_closed_to_others(gateway):
    assert gateway.data_dir.stat().st_mode & 0o7777 == 0o700


def test_without_keys_only_names_of_this_machine_are_served(gateway, http):
    for host, status in [("evil.example", 403), ("localhost:1", 200), ("127.0.0.1", 200)]:
        answer = http.get("/v2/sandboxes", headers={"Host": host})
        assert answer.status_code == status, answer.text
    answer = http.post("/v2/sandboxes", json={"templateID": "base"}, headers={"Host": "a.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, 403)


def test_the_limit_on_open_files_is_raised_to_what_is_allowed(new_gateway):
    gateway = new_gateway(prefix=["prlimit", "--nofile=256:4096"]).start()
    limits = Path(f"/proc/{gateway.process.pid}/limits").read_text().splitlines()
    (files,) = [line.split() for line in limits if line.startswith("Max open files")]
    assert files[3:5] == ["4096", "4096"]
