"""The server: who may ask, for what, and what a hostile run can do to it."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import NASTY, manifest, synthetic_run

from lawful.record import Measurement, RunWriter
from lawful.record.folder import APPLICATION, DATABASE
from lawful.watch import Follower, Refusal, address, serve
from lawful.watch.server import MOST, Server, pages

LOCAL = "127.0.0.1"
Get = Callable[..., "tuple[int, bytes, dict[str, str]]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    synthetic_run(tmp_path / "runs" / "good", ["fc1", NASTY], [0, 1, 10, 100], laws=["rga_b"])
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "runs"


class Page:
    """A server in a thread, and requests to it."""

    def __init__(self, follower: Follower, server: Server) -> None:
        self.follower, self.server = follower, server
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body, headers; the path goes out as it stands."""
        with closing(http.client.HTTPConnection(LOCAL, self.port, timeout=30)) as connection:
            connection.putrequest(
                "GET", path, skip_host="Host" in headers, skip_accept_encoding=True
            )
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())

    def json(self, path: str, **headers: str) -> Any:
        return json.loads(self.get(path, **headers)[1])

    def runs(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.json("/api/runs")["runs"]}


@pytest.fixture
def page(root: Path) -> Iterator[Page]:
    follower = Follower([root])
    follower.look()
    while follower.judge_one():
        pass
    with serve(follower, LOCAL, 0, None) as server:
        yield Page(follower, server)
        server.shutdown()


# --- what is told ---------------------------------------------------------------------------------


def test_a_run_is_told_with_its_verdicts_layers_and_curves(page: Page) -> None:
    one = page.runs()["runs/good"]
    assert (one["measured"], one["last"], one["status"]) == (4, 100, "finished")
    head = page.json(f"/api/run?run={one['key']}")
    assert head["layers"] == ["fc1", NASTY]
    assert head["laws"] == ["rga_b"]
    assert [name for name, _ in head["glance"]] == ["fc1", NASTY]
    layer = page.json(f"/api/layer?run={one['key']}&layer=fc1")
    assert layer["verdicts"][0]["law"] == "rga_b"
    assert "rga_b" in layer["quantities"]
    told = page.json(f"/api/series?run={one['key']}&layer=fc1&q=rga_b,nonsense")
    place, values, errors = told["series"]["rga_b"]
    assert told["stepsets"][place] == [0, 1, 10, 100]
    assert len(values) == len(errors) == 4


def test_only_what_is_new_is_told_again(page: Page, root: Path) -> None:
    first = page.json("/api/runs")
    key = first["runs"][0]["key"]
    again = page.json(f"/api/runs?after={first['change']}&epoch={first['epoch']}")
    assert again["runs"] == []
    with RunWriter.create(root / "good", {"status": "running"}, resume=True) as writer:
        writer.write(200, [Measurement(200, "fc1", "rga_b", 0.9, 0.01, 9)])
        page.follower.look()
        again = page.json(f"/api/runs?after={first['change']}&epoch={first['epoch']}")
        assert again["runs"][0]["last"] == 200
        assert not again["runs"][0]["current"]
    told = page.json(f"/api/series?run={key}&layer=fc1&q=rga_b&after=100")
    assert told["stepsets"] == [[200]]
    assert told["series"]["rga_b"][1] == [0.9]


def test_a_page_that_knew_another_server_is_told_everything(page: Page) -> None:
    assert len(page.json("/api/runs?after=99&epoch=other")["runs"]) == 1


def test_a_run_that_appears_or_goes_is_told(page: Page, root: Path, tmp_path: Path) -> None:
    synthetic_run(root / "second", ["fc"], [0])
    page.follower.look()
    before = page.json("/api/runs")
    assert len(before["keys"]) == 2
    (root / "second").rename(tmp_path / "gone")
    page.follower.look()
    after = page.json(f"/api/runs?after={before['change']}&epoch={before['epoch']}")
    assert len(after["keys"]) == 1


def test_a_long_run_is_thinned_and_no_answer_is_large(tmp_path: Path) -> None:
    layers = [f"blocks.{i}." + "x" * 300 for i in range(300)]
    with RunWriter.create(tmp_path / "long", manifest(layers)) as writer:
        for step in range(3000):
            writer.write(step, [Measurement(step, layers[0], "rga_b", 1 / 3, 1 / 7, 1)])
    follower = Follower([tmp_path / "long"])
    follower.look()
    with serve(follower, LOCAL, 0, None) as server:
        asking = Page(follower, server)
        key = asking.json("/api/runs")["keys"][0]
        for path in ("run", "layer", "series"):
            body = asking.get(f"/api/{path}?run={key}&layer={layers[0]}&q=rga_b")[1]
            assert len(body) < MOST
        steps = json.loads(body)["stepsets"][0]
        assert len(steps) <= 402
        assert (steps[0], steps[-1]) == (0, 2999)
        server.shutdown()
    assert all(len(plain) < MOST for _, plain, _ in pages().values())


def test_large_answers_travel_compressed(page: Page) -> None:
    _, body, headers = page.get("/plotly-0", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert len(gzip.decompress(body)) > 500_000


# --- who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example",
                                  "", "localhost:1", "10.0.0.1:{port}"])  # fmt: skip
def test_another_name_is_refused(page: Page, host: str) -> None:
    assert page.get("/api/runs", Host=host.format(port=page.port))[0] == 403
    assert page.get("/", Host=host.format(port=page.port))[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}"])
def test_this_machine_is_answered(page: Page, host: str) -> None:
    assert page.get("/api/runs", Host=host.format(port=page.port))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}],
)
def test_another_site_is_refused(page: Page, headers: dict[str, str]) -> None:
    assert page.get("/api/runs", **headers)[0] == 403


@pytest.mark.parametrize("path", [
    "/../secret.txt", "/%2e%2e/secret.txt", "/..%2f..%2fsecret.txt", "//etc/passwd",
    "/watch.css/../..", "/api/run/../../secret.txt", "/static/../secret.txt",
    "/\\..\\secret.txt", "/.git/config",
    "http://127.0.0.1/etc/passwd", "/api/run?run=../secret.txt",
    "/api/run?run=/etc/passwd", "/api/run", "/api/series?run=x",
    "/api/layer?run=" + "a" * 5000, "/api/runs?after=x",
    "/api/runs?" + "a=1&" * 99,
])  # fmt: skip
def test_there_is_no_path_to_climb(page: Page, path: str) -> None:
    code, body, _ = page.get(path)
    assert code in (404, 200)
    assert code == 404 or path.startswith("/api/runs?")
    assert b"secret" not in body
    assert b"root:" not in body


def test_a_layer_is_a_value_and_never_a_path_or_a_query(page: Page) -> None:
    key = page.json("/api/runs")["keys"][0]
    for name in ("../../secret.txt", "' OR 1=1 --", "%00", "*"):
        told = page.json(f"/api/series?run={key}&layer={name.replace(' ', '%20')}&q=rga_b")
        assert told["series"] == {}


def test_a_step_without_end_is_answered(page: Page) -> None:
    key = page.json("/api/runs")["keys"][0]
    assert page.get(f"/api/series?run={key}&layer=fc&q=rga_a&after={10**30}")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_it_only_reads(page: Page, method: str) -> None:
    with closing(http.client.HTTPConnection(LOCAL, page.port, timeout=30)) as connection:
        connection.request(method, "/api/runs")
        assert connection.getresponse().status == 501


def test_the_page_may_load_nothing_from_elsewhere(page: Page) -> None:
    _, body, headers = page.get("/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"http://" not in body
    assert b"https://" not in body


def test_others_need_the_token(root: Path) -> None:
    follower = Follower([root])
    follower.look()
    with serve(follower, "0.0.0.0", 0, None) as server:
        asking = Page(follower, server)
        assert len(server.token) >= 32
        assert address(server).endswith(f"#{server.token}")
        assert asking.get("/")[0] == 200  # the page alone says nothing
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer é"}):
            assert asking.get("/api/runs", **wrong)[0] == 401
        assert asking.get(f"/api/runs?token={server.token}")[0] == 401
        right = {"Authorization": f"Bearer {server.token}"}
        assert asking.get("/api/runs", **right)[0] == 200
        assert asking.get("/api/runs", Host=f"evil.example:{asking.port}", **right)[0] == 403
        assert asking.get("/api/runs", Host=f"192.168.1.7:{asking.port}", **right)[0] == 200
        server.shutdown()


def test_what_cannot_be_served_is_one_sentence(root: Path) -> None:
    follower = Follower([root])
    with pytest.raises(Refusal, match="16 characters"):
        serve(follower, LOCAL, 0, "short")
    with pytest.raises(Refusal, match="cannot listen on"):
        serve(follower, "203.0.113.1", 0, None)


def test_a_silent_client_does_not_hold_the_others(page: Page) -> None:
    silent = [socket.create_connection((LOCAL, page.port)) for _ in range(20)]
    try:
        assert page.get("/api/runs")[0] == 200
    finally:
        for one in silent:
            one.close()


# --- what a hostile run can do --------------------------------------------------------------------


def look(page: Page, name: str) -> dict[str, Any]:
    page.follower.look()
    while page.follower.judge_one():
        pass
    return page.runs()[f"runs/{name}"]


def test_a_damaged_run_is_told_and_the_others_go_on(page: Page, root: Path) -> None:
    (root / "bad").mkdir()
    (root / "bad" / "manifest.json").write_text('{"format": 1, "experiment": ' + "[" * 100_000)
    assert "damaged" in look(page, "bad")["fault"]
    assert page.runs()["runs/good"]["fault"] == ""
    assert page.json(f"/api/run?run={page.runs()['runs/bad']['key']}")["fault"]


def test_a_link_shows_nothing_of_where_it_leads(page: Page, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"format": 1, "experiment": {"name": "s3cret"}}')
    synthetic_run(root / "bad", ["fc"], [0])
    (root / "bad" / "manifest.json").unlink()
    (root / "bad" / "manifest.json").symlink_to(tmp_path / "secret.json")
    one = look(page, "bad")
    assert "link" in one["fault"]
    assert "s3cret" not in json.dumps(one)


@pytest.mark.parametrize("crafted", [
    "CREATE VIEW measurement AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) "
    "SELECT '' AS layer, 'loss' AS quantity, i AS step, 1.0 AS value, 0.0 AS stderr, 1 AS n FROM n",
    "CREATE TABLE measurement (layer, quantity, step, stderr, n, "
    "value AS (length(hex(zeroblob(9e8)))))",
    "CREATE TRIGGER t AFTER INSERT ON step BEGIN SELECT load_extension('/tmp/x.so'); END",
])  # fmt: skip
def test_a_crafted_database_runs_nothing(page: Page, root: Path, crafted: str) -> None:
    synthetic_run(root / "bad", ["fc"], [0])
    with closing(sqlite3.connect(root / "bad" / DATABASE)) as database, database:
        if "TRIGGER" not in crafted:
            database.execute("DROP TABLE measurement")
        database.execute(crafted)
        assert database.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
    start = time.monotonic()
    assert "holds other tables" in look(page, "bad")["fault"]
    assert time.monotonic() - start < 30  # and does not go on for ever


def test_a_name_without_end_is_not_read(page: Page, root: Path) -> None:
    synthetic_run(root / "bad", ["fc"], [0])
    with closing(sqlite3.connect(root / "bad" / DATABASE)) as database, database:
        database.execute("INSERT INTO layer (name) VALUES (?)", ("x" * 3_000_000,))
    key = look(page, "bad")["key"]
    assert "fault" in page.json(f"/api/run?run={key}")


def test_an_unknown_quantity_and_text_among_numbers_do_no_harm(page: Page, root: Path) -> None:
    synthetic_run(root / "bad", ["fc"], [0])
    with closing(sqlite3.connect(root / "bad" / DATABASE)) as database, database:
        database.execute("INSERT INTO measurement VALUES ('fc', '<b>', 1, 1.0, 0.0, 1)")
        database.execute("UPDATE measurement SET value = '<b>' WHERE quantity = 'rga_a'")
    key = look(page, "bad")["key"]
    assert "<b>" not in page.json(f"/api/layer?run={key}&layer=fc")["quantities"]
    assert page.get(f"/api/series?run={key}&layer=fc&q=rga_a")[0] in (200, 404)
    assert page.get(f"/api/run?run={key}")[0] == 200


def test_arrays_that_are_no_arrays_do_no_harm(page: Page, root: Path) -> None:
    run = synthetic_run(root / "bad", ["fc"], [0])
    for file in (run.path / "arrays").iterdir():
        file.write_bytes(b"\x80\x04\x95cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    key = look(page, "bad")["key"]
    assert page.get(f"/api/run?run={key}")[0] == 200
