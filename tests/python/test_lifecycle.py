"""Creating, finding, keeping and ending sandboxes through the SDK."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
from e2b import NotFoundException, Sandbox, SandboxException, SandboxQuery, SandboxState

from gateway import KEY

pytestmark = pytest.mark.sdk


def pages(**options):
    """All pages of a listing, each as a list of sandbox ids."""
    paginator, found = Sandbox.list(**options), []
    while paginator.has_next:
        found.append([info.sandbox_id for info in paginator.next_items()])
    return found


def listed(**query):
    return {id for page in pages(query=SandboxQuery(**query)) for id in page}


def test_a_new_sandbox_answers_at_once_and_runs_from_the_base_template(sandbox):
    assert len(sandbox.sandbox_id) == 32 and set(sandbox.sandbox_id) <= set("0123456789abcdef")
    assert sandbox.is_running()
    assert sandbox.commands.run("echo hello").stdout == "hello\n"
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.template_id == "base"
    assert info.state == SandboxState.RUNNING
    assert (info.cpu_count, info.memory_mb) == (2, 1024)
    assert info.envd_version == "0.6.13"


def test_info_tells_when_the_sandbox_started_and_will_end(sandboxes):
    asked = datetime.now(timezone.utc)
    info = sandboxes(timeout=77).get_info()
    assert abs((info.started_at - asked).total_seconds()) < 3
    assert abs((info.end_at - info.started_at).total_seconds() - 77) < 2


def test_the_default_timeout_is_five_minutes(gateway):
    with Sandbox.create() as sandbox:
        info = sandbox.get_info()
        assert abs((info.end_at - info.started_at).total_seconds() - 300) < 2


def test_the_sandbox_names_a_domain_of_its_own(sandbox):
    assert sandbox.sandbox_domain and not sandbox.sandbox_domain.endswith(("e2b.app", "e2b.dev"))
    assert sandbox.get_host(8080) == f"8080-{sandbox.sandbox_id}.{sandbox.sandbox_domain}"


def test_metadata_is_kept_as_given(sandboxes):
    metadata = {"plain": "1", "a&b=c d": "x=y&z", "ünï/çødé%": "日本 + %2F", "empty": ""}
    sandbox = sandboxes(metadata=metadata)
    assert sandbox.get_info().metadata == metadata


def test_environment_given_at_create_reaches_every_command(sandboxes):
    sandbox = sandboxes(envs={"GREETING": "hällo wörld", "SHARED": "from create"})
    shown = sandbox.commands.run('echo "$GREETING/$SHARED"', envs={"SHARED": "from run"})
    assert shown.stdout == "hällo wörld/from run\n"
    about = sandbox.commands.run('echo "$E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID"')
    assert about.stdout.split() == ["true", sandbox.sandbox_id, "base"]
    assert sandbox.files.read("/run/e2b/.E2B_SANDBOX_ID").strip() == sandbox.sandbox_id


@pytest.mark.parametrize(
    "pair", [("plain", "1"), ("a&b=c d", "x=y&z"), ("ünï/çødé%", "日本 + %2F")]
)
def test_listing_filters_by_metadata_with_odd_characters(sandboxes, pair):
    run = str(uuid.uuid4())
    wanted = sandboxes(metadata={"run": run, pair[0]: pair[1]})
    sandboxes(metadata={"run": run, pair[0]: pair[1] + "x"})
    assert listed(metadata={"run": run, pair[0]: pair[1]}) == {wanted.sandbox_id}


def test_listing_filters_by_state_template_and_start(sandboxes):
    run = {"run": str(uuid.uuid4())}
    older = sandboxes(metadata=run)
    between = datetime.now(timezone.utc)
    time.sleep(0.05)
    newer = sandboxes(metadata=run)
    both = {older.sandbox_id, newer.sandbox_id}
    assert listed(metadata=run) == both
    assert listed(metadata=run, state=[SandboxState.RUNNING]) == both
    assert listed(metadata=run, state=[SandboxState.RUNNING, SandboxState.PAUSED]) == both
    assert listed(metadata=run, state=[SandboxState.PAUSED]) == set()
    assert listed(metadata=run, template="base") == both
    assert listed(metadata=run, template="no-such-template") == set()
    assert listed(metadata=run, started_after=between) == {newer.sandbox_id}
    assert listed(metadata=run, started_after=between + timedelta(hours=1)) == set()


def test_listing_pages_in_either_order_and_resumes_from_a_token(sandboxes):
    run = SandboxQuery(metadata={"run": str(uuid.uuid4())})
    made = [sandboxes(metadata=run.metadata).sandbox_id for _ in range(5)]
    newest_first = pages(query=run, limit=2)
    assert [len(page) for page in newest_first] == [2, 2, 1]
    assert sum(newest_first, []) == made[::-1]
    assert sum(pages(query=run, limit=2, order="asc"), []) == made
    assert sum(pages(query=run, limit=5), []) == made[::-1]

    first = Sandbox.list(query=run, limit=2)
    first.next_items()
    rest = pages(query=run, limit=2, next_token=first.next_token)
    assert sum(rest, []) == made[::-1][2:]


def test_a_page_is_not_disturbed_by_what_was_created_meanwhile(sandboxes):
    run = SandboxQuery(metadata={"run": str(uuid.uuid4())})
    made = [sandboxes(metadata=run.metadata).sandbox_id for _ in range(3)]
    paginator = Sandbox.list(query=run, limit=2)
    first = [info.sandbox_id for info in paginator.next_items()]
    sandboxes(metadata=run.metadata)
    second = [info.sandbox_id for info in paginator.next_items()]
    assert first + second == made[::-1]


def test_a_sandbox_ends_within_a_second_of_its_deadline(gateway, eventually):
    sandbox = Sandbox.create(timeout=3)
    due = sandbox.get_info().end_at.timestamp()
    while time.time() < due - 0.3:
        assert sandbox.is_running()
        time.sleep(0.1)
    eventually(lambda: not sandbox.is_running())
    assert -0.1 < time.time() - due < 1
    assert sandbox.sandbox_id not in listed()
    assert sandbox.kill() is False


def test_many_deadlines_at_one_instant_are_all_kept(gateway):
    with ThreadPoolExecutor(10) as pool:
        made = list(pool.map(lambda _: Sandbox.create(timeout=4), range(10)))
        dues = [sandbox.get_info().end_at.timestamp() for sandbox in made]
        time.sleep(max(0, max(dues) + 1 - time.time()))
        assert not any(pool.map(lambda sandbox: sandbox.is_running(), made))


def test_set_timeout_lengthens_and_shortens(sandbox, eventually):
    sandbox.set_timeout(600)
    left = sandbox.get_info().end_at - datetime.now(timezone.utc)
    assert 597 < left.total_seconds() <= 601
    Sandbox.set_timeout(sandbox.sandbox_id, 700)
    assert 695 < (sandbox.get_info().end_at - datetime.now(timezone.utc)).total_seconds() <= 701
    asked = time.monotonic()
    sandbox.set_timeout(1)
    eventually(lambda: not sandbox.is_running())
    assert 0.8 < time.monotonic() - asked < 2.2


def test_connect_gives_the_same_sandbox_and_only_extends_its_deadline(sandboxes):
    sandbox = sandboxes(timeout=200)
    sandbox.files.write("note", "mine")
    end = sandbox.get_info().end_at
    again = Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert again.files.read("note") == "mine"
    assert Sandbox.get_info(again.sandbox_id).end_at == again.get_info().end_at == end
    again.connect(timeout=400)
    assert 195 < (sandbox.get_info().end_at - end).total_seconds() < 205


def test_connect_without_a_timeout_keeps_a_longer_deadline(sandboxes):
    sandbox = sandboxes(timeout=1000)
    end = sandbox.get_info().end_at
    Sandbox.connect(sandbox.sandbox_id)
    assert sandbox.get_info().end_at == end


def test_kill_is_idempotent_and_final(sandbox):
    assert Sandbox.kill(sandbox.sandbox_id) is True
    assert sandbox.kill() is False
    assert not sandbox.is_running()
    assert sandbox.sandbox_id not in listed()
    for call in (
        lambda: Sandbox.get_info(sandbox.sandbox_id),
        lambda: Sandbox.set_timeout(sandbox.sandbox_id, 60),
        lambda: Sandbox.connect(sandbox.sandbox_id),
    ):
        with pytest.raises(NotFoundException):
            call()


def test_an_unknown_sandbox_is_not_found(gateway):
    unknown = uuid.uuid4().hex
    assert Sandbox.kill(unknown) is False
    with pytest.raises(NotFoundException):
        Sandbox.get_info(unknown)


def test_an_unknown_template_is_named_in_the_error(gateway):
    with pytest.raises(SandboxException, match="no-such-template"):
        Sandbox.create("no-such-template")


def test_two_sandboxes_share_nothing(sandboxes):
    one, other = sandboxes(), sandboxes()
    one.files.write("/tmp/mine", "1")
    one.commands.run("sleep 300", background=True)
    assert not other.files.exists("/tmp/mine")
    assert other.commands.list() == []
    assert one.commands.run("hostname").stdout != other.commands.run("hostname").stdout


def test_the_same_idempotency_key_gives_the_same_sandbox(http):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first, second = (
        http.post("/v2/sandboxes", json={"templateID": "base"}, headers=key) for _ in range(2)
    )
    http.delete(f"/sandboxes/{first.json()['sandboxID']}")
    assert first.status_code == second.status_code == 201
    assert first.json()["sandboxID"] == second.json()["sandboxID"]


@pytest.mark.parametrize(("path", "seconds"), [("/sandboxes", 15), ("/v2/sandboxes", 300)])
def test_each_create_path_has_its_default_timeout_and_answers_whole(http, path, seconds):
    answer = http.post(path, json={"templateID": "base"})
    assert answer.status_code == 201
    made = answer.json()
    info = http.get(f"/sandboxes/{made['sandboxID']}").json()
    http.delete(f"/sandboxes/{made['sandboxID']}")
    assert {"sandboxID", "templateID", "clientID", "envdVersion", "envdAccessToken"} <= made.keys()
    start, end = (datetime.fromisoformat(info[at]) for at in ("startedAt", "endAt"))
    assert abs((end - start).total_seconds() - seconds) < 2


def test_the_old_listing_and_refreshes_serve_old_clients(http, sandboxes):
    sandbox = sandboxes(timeout=60)
    path = f"/sandboxes/{sandbox.sandbox_id}"
    assert sandbox.sandbox_id in {listed["sandboxID"] for listed in http.get("/sandboxes").json()}
    end = sandbox.get_info().end_at
    assert http.post(f"{path}/refreshes", json={"duration": 20}).status_code == 204
    assert sandbox.get_info().end_at == end
    assert http.post(f"{path}/refreshes", json={"duration": 600}).status_code == 204
    assert 535 < (sandbox.get_info().end_at - end).total_seconds() < 545


def test_listing_counts_running_sandboxes_in_a_header(http, sandboxes):
    sandboxes()
    answer = http.get("/v2/sandboxes", params={"state": "running"})
    assert int(answer.headers["X-Total-Running"]) == len(answer.json())


def test_health_needs_no_key(gateway):
    with gateway.http(**{"X-API-Key": None}) as http:
        answer = http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})


def test_more_sandboxes_than_allowed_are_refused_with_when_to_try_again(new_gateway):
    gateway = new_gateway("--max-sandboxes", "2").start()
    with gateway.http() as http:
        made = [http.post("/v2/sandboxes", json={"templateID": "base"}) for _ in range(3)]
        assert [answer.status_code for answer in made] == [201, 201, 503]
        assert made[2].json()["error_code"] == "sandbox_capacity_unavailable"
        assert int(made[2].headers["Retry-After"]) > 0
        assert len(gateway.ids()) == 2
        http.delete(f"/sandboxes/{made[0].json()['sandboxID']}")
        assert http.post("/v2/sandboxes", json={"templateID": "base"}).status_code == 201


def test_a_host_without_memory_to_spare_takes_no_more_sandboxes(new_gateway):
    gateway = new_gateway("--memory-headroom", str(10**7)).start()
    with gateway.http() as http:
        answer = http.post("/v2/sandboxes", json={"templateID": "base"})
    assert answer.status_code == 503
    assert answer.json()["error_code"] == "sandbox_capacity_unavailable"
    assert "Retry-After" in answer.headers and gateway.ids() == set()


def test_the_sdk_goes_where_its_arguments_point(new_gateway):
    gateway = new_gateway().start()
    with Sandbox.create(**gateway.opts) as sandbox:
        assert sandbox.commands.run("echo here").stdout == "here\n"
        assert gateway.ids() == {sandbox.sandbox_id}
    assert gateway.opts["api_key"] == KEY and gateway.ids() == set()
