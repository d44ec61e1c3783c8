"""An audit finds what is wrong, leaves alone what is right, and says how to mend it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import textwrap

import jsonschema
import pytest

from agent import layers
from agent.artifacts import store
from agent.audit import advisories, deployment, findings, leaks, places, ports, requests, sarif
from agent.bus import server
from protocol import codec, commands
from stages import kit, values
from stages.ingest import sarif as ingest
from stages.register import champions
from stages.register import model as register
from tests.security import test_ray_doors
from tests.stages import fitted, web

WAIT_S = 90.0
open_cluster = test_ray_doors.open_cluster


def loaded(folder, *overrides, file=None):
    given = (f"data_dir={folder / 'data'}", f"access.data_roots={folder}", *overrides)
    return layers.resolve(file, {}, given)


def audited(folder, *overrides, file=None, **more):
    found = loaded(folder, *overrides, file=file)
    return deployment.Deployment(found, **({"advisories": ""} | more))


def by_rule(found):
    return {each.rule: each for each in found}


def rules(check, asked):
    return {(each.rule, each.severity) for each in check(asked)}


@pytest.fixture
def bare_bus(tmp_path):
    """Give the URL of a server that asks nobody who they are."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [server.find(), "-a", "127.0.0.1", "-p", str(port), "-l", str(tmp_path / "bus.log")]
    with subprocess.Popen(command) as process:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
        yield f"nats://127.0.0.1:{port}"
        process.terminate()


def test_a_bus_that_lets_anybody_in_is_found(bare_bus, tmp_path):
    found = list(deployment._bus_lets_nobody_in(audited(tmp_path, bus_url=bare_bus)))
    assert [(each.rule, each.severity) for each in found] == [("bus/open", "high")]
    assert "mlpm permissions" in found[0].mend
    assert found[0].where == bare_bus


async def test_the_embedded_bus_lets_nobody_in(embedded, tmp_path):
    asked = audited(tmp_path, bus_url=embedded.url)
    assert await asyncio.to_thread(lambda: list(deployment._bus_lets_nobody_in(asked))) == []


def test_a_bus_that_does_not_answer_is_told_as_unchecked(tmp_path):
    for url in ("", "nats://user:hush@127.0.0.1:1"):
        (found,) = deployment._bus_lets_nobody_in(audited(tmp_path, bus_url=url))
        assert (found.rule, found.severity) == ("bus/unchecked", "info")
        assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("url", "overrides", "found"),
    [
        ("nats://10.1.2.3:4222", (), 1),
        ("nats://127.0.0.1:4222, bus.test:4222", (), 1),
        ("nats://a.test:4222,nats://b.test:4222", (), 2),
        ("tls://a.test:4222,wss://b.test", (), 0),
        ("nats://10.1.2.3:4222", ("nats.tls_ca=ca.pem",), 0),
        ("nats://127.0.0.1:4222,nats://localhost:4222,nats://[::1]:4222", (), 0),
        ("nats://user:hush@a.test:4222", (), 1),
    ],
)
def test_what_leaves_the_machine_is_to_be_encrypted(tmp_path, url, overrides, found):
    asked = audited(tmp_path, *overrides, bus_url=url)
    listed = list(deployment._bus_is_encrypted(asked))
    assert [each.rule for each in listed] == ["bus/plaintext"] * found
    assert "hush" not in str(listed)


def test_an_unencrypted_registry_elsewhere_is_found(tmp_path):
    check = deployment._services_are_encrypted
    for url, count in (("http://a.test", 1), ("https://a.test", 0), ("http://127.0.0.1:5", 0)):
        assert len(list(check(audited(tmp_path, f"tracking.uri={url}")))) == count


@pytest.mark.ray
@pytest.mark.asyncio(loop_scope="module")
async def test_an_open_cluster_and_leave_to_join_one_are_found(open_cluster, tmp_path):
    check = deployment._cluster_is_closed
    asked = audited(tmp_path, f"ray.address={open_cluster}", "ray.allow_open=true")
    assert rules(check, asked) == {("ray/open", "high"), ("ray/open-allowed", "medium")}
    assert rules(check, audited(tmp_path)) == set()


def test_models_that_other_machines_may_ask_are_found(tmp_path):
    check = deployment._predictions_are_for_this_machine
    assert rules(check, audited(tmp_path)) == set()
    assert rules(check, audited(tmp_path, "serving.host=0.0.0.0")) == {("serving/open", "medium")}


HOST = """
import os, sys
from agent import config, layers
from agent.execution import cluster
import pathlib, ray
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
cluster._lock(pathlib.Path(sys.argv[1]))
ray.init("local", include_dashboard=False, num_cpus=1, log_to_driver=False,
         _node_ip_address=sys.argv[2])
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def own_address():
    """Give an address of this machine that is not loopback; None where it has none."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]
    return None


@pytest.mark.ray
@pytest.mark.slow
async def test_ray_ports_that_other_machines_reach_are_found(tmp_path):
    here = own_address()
    if here is None:
        pytest.skip("this machine has no address but loopback: nothing of it can be open to others")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", HOST, str(tmp_path), here),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
    )
    async with asyncio.timeout(WAIT_S):
        assert await process.stdout.readline()
        found = [each for each in ports.exposed() if here in each.where or "::" in each.where]
        process.stdin.close()
        await process.wait()
    assert {each.rule for each in found} == {"ray/exposed-port"}
    assert "medium" in {each.severity for each in found}  # a token is asked for
    assert any("gcs_server" in each.where for each in found)


def test_files_that_let_in_are_to_be_closed_to_others(tmp_path):
    seed, data = tmp_path / "agent.seed", tmp_path / "data"
    seed.write_text("seed")
    data.mkdir(mode=0o700)
    (data / "agent.json").write_text("{}")
    asked = audited(tmp_path, f"nats.nkey_seed={seed}")
    seed.chmod(0o604)
    (data / "agent.json").chmod(0o640)
    found = list(deployment._secret_files_are_closed(asked))
    assert {each.where for each in found} == {str(seed), str(data / "agent.json")}
    assert {each.severity for each in found} == {"high"}
    assert f"chmod 600 {seed}" in {each.mend for each in found}
    for path in (seed, data / "agent.json"):
        path.chmod(0o600)
    assert list(deployment._secret_files_are_closed(asked)) == []
    seed.chmod(0o640)  # a group of services may share one
    assert list(deployment._secret_files_are_closed(asked)) == []
    seed.unlink()
    assert rules(deployment._secret_files_are_closed, asked) == {("files/missing", "medium")}


@pytest.mark.parametrize(("mode", "severity"), [(0o700, None), (0o755, "medium"), (0o777, "high")])
def test_the_data_folder_is_to_be_closed_to_others(tmp_path, mode, severity):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(mode)
    found = [each.severity for each in deployment._data_folder_is_closed(audited(tmp_path))]
    assert found == ([severity] if severity else [])


SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"


def test_a_secret_in_the_configuration_file_is_found_and_not_shown(tmp_path):
    file = tmp_path / "mlpm.toml"
    file.write_text('[nats]\nurl = "nats://agent:hush-hush@bus.test:4222"\n')
    check = deployment._configuration_holds_no_secret
    (found,) = check(audited(tmp_path, file=file))
    assert (found.rule, found.severity, found.where) == ("configuration/secret", "high", "nats.url")
    assert "MLPM_NATS__URL" in found.mend
    assert "hush" not in str(found)
    (flag,) = check(audited(tmp_path, f"nats.url=nats://agent:{SEED}@bus.test"))
    assert "everybody sees the flags" in flag.mend
    env = {"MLPM_NATS__URL": "nats://agent:hush-hush@bus.test", "MLPM_DATA_DIR": str(tmp_path)}
    assert list(check(deployment.Deployment(layers.resolve(None, env)))) == []


def test_access_that_is_too_wide_is_found(tmp_path):
    check = deployment._access_is_narrow
    wide = ("access.data_roots=/", "access.secrets=*")
    assert {("access/wide-root", "high"), ("access/any-secret", "high")} < rules(
        check, audited(tmp_path, *wide)
    )
    narrow = ("access.allowed_hosts=a.test", "access.allowed_schemes=file,https")
    assert rules(check, audited(tmp_path, *narrow)) == set()


def pipeline(*stages, **options):
    told = {"name": "p", "stages": list(stages)}
    return {"request_id": "r", "requester": "me", "pipeline": told, "options": options}


def subject(folder, written, *overrides):
    request = codec.decode(json.dumps(written).encode(), commands.PipelineRequest)
    return requests.Subject(request, loaded(folder, *overrides).settings, written)


LOAD = {"id": "load", "use": "ingest.table", "with": {"uri": "x.csv"}, "timeout_s": 60}
SPLIT = {
    "id": "split", "use": "prepare.split", "with": {"target": "y"}, "timeout_s": 60,
    "inputs": {"table": "load.table"},
}  # fmt: skip
TRAIN = {
    "id": "train", "use": "train.model", "with": {"model": "Ridge", "target": "y"},
    "timeout_s": 60, "inputs": {"train": "split.train"},
}  # fmt: skip
KEEP = {
    "id": "keep", "use": "register.model", "with": {"name": "m"}, "timeout_s": 60,
    "inputs": {"model": "train.model"},
}  # fmt: skip
GATE = {"id": "gate", "use": "gate.audit", "inputs": {"model": "train.model"}, "timeout_s": 60}
HTTP = {"id": "api", "use": "ingest.http", "with": {"uri": "https://a.test/x"}, "timeout_s": 60}
GOOD = (LOAD, SPLIT, TRAIN, GATE, {**KEEP, "needs": ["gate"]})
CALM = {"seed": 7, "deadline_s": 600}


def with_params(stage, **params):
    return {**stage, "with": {**stage.get("with", {}), **params}}


def test_nothing_is_found_in_a_pipeline_that_is_right(tmp_path):
    assert requests.examine(subject(tmp_path, pipeline(*GOOD, **CALM))) == []


AUTH = {"secret": {"env": "MLPM_SECRET_API"}}
WRONG = [
    ("pipeline/invalid", "high", (LOAD, {**SPLIT, "use": "prepare.spilt"}), CALM),
    ("pipeline/invalid", "high", (with_params(LOAD, fromat="csv"),), CALM),
    ("pipeline/secret", "high", (with_params(HTTP, params={"api_key": "hush-hush"}),), CALM),
    ("pipeline/secret", "high", (with_params(HTTP, headers={"x": f"Bearer {SEED}"}),), CALM),
    ("pipeline/secret", "high", (with_params(HTTP, uri="https://me:hush@a.test/x"),), CALM),
    ("pipeline/secret", "high", (HTTP,), {**CALM, "labels": {"password": "hush-hush"}}),
    ("pipeline/out-of-bounds", "high", (with_params(LOAD, uri="../x.csv"),), CALM),
    ("pipeline/out-of-bounds", "high", (with_params(LOAD, uri="/etc/passwd"),), CALM),
    ("pipeline/out-of-bounds", "high", (with_params(LOAD, uri=["x.csv", "../x.csv"]),), CALM),
    ("pipeline/out-of-bounds", "high", (with_params(LOAD, uri="gopher://a.test/x.csv"),), CALM),
    ("pipeline/plaintext", "medium", (with_params(HTTP, uri="http://a.test/x"),), CALM),
    ("pipeline/ungated", "medium", (LOAD, SPLIT, TRAIN, KEEP), CALM),
    ("pipeline/loose-gate", "high", (*GOOD[:3], {**GATE, "on_failure": "skip"}), CALM),
    ("pipeline/loose-gate", "high", (*GOOD[:3], with_params(GATE, on_silence="allow")), CALM),
    ("pipeline/no-timeout", "low", ({**LOAD, "timeout_s": None},), CALM),
    ("pipeline/no-retry", "low", ({**LOAD, "retry": {"max_attempts": 1}},), CALM),
    ("pipeline/no-deadline", "low", (LOAD,), {"seed": 7}),
    ("pipeline/no-seed", "low", (LOAD, SPLIT), {"deadline_s": 600}),
]


@pytest.mark.parametrize(("rule", "severity", "stages", "options"), WRONG)
def test_what_is_wrong_in_a_pipeline_is_found_alone(tmp_path, rule, severity, stages, options):
    found = requests.examine(subject(tmp_path, pipeline(*stages, **options)))
    assert {(each.rule, each.severity) for each in found} == {(rule, severity)}
    assert all(each.mend and each.where.startswith("$") for each in found)
    assert "hush" not in str(found)
    assert SEED not in str(found)


@pytest.mark.parametrize(
    "keep",
    [
        {**KEEP, "approval": {"prompt": "?"}},
        {**KEEP, "when": {"metric": "train.rmse", "op": "<", "value": 1.0}},
    ],
)
def test_an_effect_with_an_approval_or_a_measure_before_it_is_left_alone(tmp_path, keep):
    asked = subject(tmp_path, pipeline(LOAD, SPLIT, TRAIN, keep, **CALM))
    assert requests.examine(asked) == []


def test_a_reference_to_a_secret_is_none(tmp_path):
    asked = subject(tmp_path, pipeline(with_params(HTTP, auth=AUTH), **CALM))
    assert requests.examine(asked) == []


def test_hosts_that_are_not_named_are_out_of_bounds(tmp_path):
    written = pipeline(HTTP, **CALM)
    found = requests.examine(subject(tmp_path, written, "access.allowed_hosts=b.test"))
    assert [each.rule for each in found] == ["pipeline/out-of-bounds"]
    assert requests.examine(subject(tmp_path, written, "access.allowed_hosts=A.test")) == []


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hush@h/d", "https://h/x?access_token=abcdef123", f"x {SEED} y",
        "-----BEGIN RSA PRIVATE KEY-----\nabc", "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a" * 36,
        "Authorization: Basic dXNlcjpwYXNzd29yZA==", "sk-" + "a1" * 16,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_form(text):
    assert leaks.in_text(text)


@pytest.mark.parametrize(
    "text",
    ["postgresql://me@h/d", "https://h/x?page=2&key=", "s3://bucket/key", "2026-11-23T09:00:00Z",
     "nats://127.0.0.1:4222", "a basic text about tokens", "sha256:" + "a" * 64, "UABC" * 14],
)  # fmt: skip
def test_what_is_no_secret_is_not_taken_for_one(text):
    assert leaks.in_text(text) is None
    assert list(leaks.in_data({"uri": text, "target": text, "key": text})) == []


def test_an_accepted_pipeline_with_a_secret_is_found_in_the_journal(tmp_path):
    written = pipeline(with_params(HTTP, params={"api_key": "hush-hush"}))
    request = codec.decode(json.dumps(written).encode(), commands.PipelineRequest)
    asked = audited(tmp_path, accepted=(("run-1", request.pipeline),))
    (found,) = deployment._accepted_pipelines_hold_no_secret(asked)
    assert found.where == "run-1 $.stages[0].with.params.api_key"
    assert (found.severity, "hush" in str(found)) == ("high", False)


def test_a_pickle_in_the_artifact_store_is_found(tmp_path):
    asked = audited(tmp_path)
    kept = store.Store(asked.settings.artifacts_uri, tmp_path / "copies").make()
    kept.put(values.Text("plain" * 1000))
    kept.put(fitted.wine_model())
    assert list(deployment._artifacts_hold_no_pickle(asked)) == []
    ref = kept.put(values.Text(pickle.dumps(pathlib.Path("x"), protocol=0).decode()))
    (found,) = deployment._artifacts_hold_no_pickle(asked)
    assert (found.rule, found.severity) == ("model/pickle", "high")
    assert ref.digest.removeprefix("sha256:") in found.where


def test_a_pickle_in_the_registry_is_found(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    asked = audited(tmp_path, f"tracking.uri={uri}")
    check = deployment._registry_holds_no_pickle
    assert list(check(asked)) == []
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "work").mkdir()
    context = kit.Context(workdir=tmp_path / "work", services=kit.Services(tracking_uri=uri))
    register.RegisterModel(name="wine").run(fitted.wine_model(), None, context)
    assert list(check(asked)) == []
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "model.pkl").write_bytes(pickle.dumps({"a": 1}))
    registry = champions.client(uri)
    registry.create_registered_model("foreign")
    registry.create_model_version("foreign", folder.as_uri())
    (found,) = check(asked)
    assert (found.where, found.severity) == ("foreign version 1", "high")
    assert "model.pkl" in found.why


PACKAGES = {"left": "1.0", "right": "2.0", "third": "3.0"}
VULNERABLE = {
    "id": "GHSA-aaaa",
    "summary": "it can be made to run anything",
    "database_specific": {"severity": "CRITICAL"},
    "affected": [
        {
            "package": {"name": "Right", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}],
        }
    ],
}


@pytest.fixture
def osv():
    with web.serving() as api:

        def batch(seen):
            asked = json.loads(seen.body)["queries"]
            known = {"right": [{"id": "GHSA-aaaa"}], "third": [{"id": "PYSEC-1"}]}
            found = [{"vulns": known.get(each["package"]["name"], [])} for each in asked]
            return web.Reply({"results": found})

        api.routes |= {
            "/v1/querybatch": batch,
            "/v1/vulns/GHSA-aaaa": web.Reply(VULNERABLE),
            "/v1/vulns/PYSEC-1": web.Reply({"id": "PYSEC-1", "withdrawn": "2026-01-01"}),
        }  # fmt: skip
        yield api


def test_known_weaknesses_are_looked_up_in_osv(osv):
    (found,) = advisories.look_up(osv.url(""), PACKAGES)
    assert (found.rule, found.severity) == ("dependency/vulnerable", "high")
    assert found.where == "right==2.0"
    assert "GHSA-aaaa: it can be made to run anything" in found.why
    assert found.mend == "install right 2.1"
    sent = json.loads(osv.seen[0].body)["queries"]
    assert {each["version"] for each in sent} == {"1.0", "2.0", "3.0"}


def test_an_advisory_database_that_is_out_of_reach_is_told(osv):
    osv.routes["/v1/querybatch"] = web.Reply(b"<html>", 200)
    for url in (osv.url(""), "http://127.0.0.1:1"):
        (found,) = advisories.look_up(url, PACKAGES)
        assert (found.rule, found.severity) == ("dependency/unchecked", "info")
        assert url.rstrip("/") in found.why


def test_known_weaknesses_are_read_from_a_file_of_pip_audit(tmp_path):
    file = tmp_path / "audit.json"
    vulns = [{"id": "PYSEC-2", "fix_versions": ["4.1"], "aliases": [], "description": "bad\nx"}]
    told = [{"name": "x", "version": "4.0", "vulns": vulns}, {"name": "y", "skip_reason": "local"}]
    file.write_text(json.dumps({"dependencies": told, "fixes": []}))
    (found,) = advisories.look_up(str(file), {})
    assert (found.where, found.mend) == ("x==4.0", "install x 4.1")
    (missing,) = advisories.look_up(str(tmp_path / "no.json"), {})
    assert missing.rule == "dependency/unchecked"


def test_the_installed_packages_are_those_that_are_looked_up():
    found = advisories.installed()
    assert found["torch"] == "2.13.0"  # without what marks a build
    assert "ray" in found


def test_a_check_that_breaks_does_not_end_the_others():
    def _broken(_):
        raise RuntimeError("no")

    def _works(_):
        return [findings.Finding("x/y", "high", "here", "why")]

    found = findings.carry_out((_broken, _works), None)
    assert [each.rule for each in found] == ["x/y", "audit/unchecked"]
    assert "RuntimeError: no" in found[1].why


def test_a_path_is_found_in_the_file():
    text = "# first\nname: p\nstages:\n- id: a\n  with:\n    uri: x\n- {id: b, use: y}\n"
    assert places.line(text, "$.pipeline.stages[0].with.uri") == 6
    assert places.line(text, "$.pipeline.stages[1].use") == 7
    assert places.line(text, "$.pipeline.stages[1].with.uri") == 7
    assert places.line(text, "$.options") is None
    assert places.line('{"pipeline": {\n"name": "p"}}', "$.pipeline.name") == 2
    assert places.line("a: [", "$.a") is None


WRITTEN = """\
    name: p
    stages:
    - id: api
      use: ingest.http
      with:
        uri: http://a.test/x
        params: {api_key: hush-hush}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(textwrap.dedent(WRITTEN))
    return path


async def mlpm(*arguments, cwd):
    """Run the program; give its exit code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", *arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith("MLPM_")}
        | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )
    async with asyncio.timeout(WAIT_S):
        out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


async def test_a_file_with_a_high_finding_ends_with_one(file, tmp_path):
    code, out, errors = await mlpm("audit", str(file), "--json", cwd=tmp_path)
    assert code == 1, errors
    found = {each["rule"]: each for each in json.loads(out)["findings"]}
    assert found["pipeline/secret"]["line"] == 7
    assert found["pipeline/plaintext"]["line"] == 6
    code, out, _ = await mlpm("audit", str(file), cwd=tmp_path)
    assert code == 1
    assert "→ use https:" in out
    assert "1 high" in out
    assert "hush" not in out


async def test_a_file_without_a_high_finding_ends_with_zero(file, tmp_path):
    file.write_text(file.read_text().replace("api_key: hush-hush", "page: 1"))
    code, out, errors = await mlpm("audit", str(file), "--json", cwd=tmp_path)
    assert code == 0, errors
    assert "pipeline/plaintext" in out


async def test_a_file_that_is_no_request_is_refused_with_its_problem(tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\nstages: []\n")
    code, out, _ = await mlpm("audit", "p.yaml", "--json", cwd=tmp_path)
    assert code == 1
    assert json.loads(out)["problem"]["code"] == "invalid_field"


async def test_a_deployment_is_audited_whole(tmp_path):
    flags = ["--set", f"data_dir={tmp_path / 'data'}", "--set", "access.secrets=*"]
    code, out, errors = await mlpm(
        "audit", "--json", "--advisories", "http://127.0.0.1:1", *flags, cwd=tmp_path
    )
    assert code == 1, errors
    found = by_rule([findings.Finding(**each) for each in json.loads(out)["findings"]])
    assert {"bus/unchecked", "access/any-secret", "dependency/unchecked"} <= found.keys()
    assert "audit/unchecked" not in found, found["audit/unchecked"]


@pytest.mark.usefixtures("file")
async def test_the_sarif_log_is_what_our_own_stage_reads(tmp_path):
    code, out, errors = await mlpm("audit", "p.yaml", "--sarif", cwd=tmp_path)
    assert code == 1, errors
    (tmp_path / "log.sarif").write_text(out)
    (tmp_path / "work").mkdir()
    services = kit.Services(data_roots=(str(tmp_path),))
    context = kit.Context(workdir=tmp_path / "work", services=services)
    read = await asyncio.to_thread(ingest.Sarif(uri="log.sarif").run, context)
    rows = read.table.arrow.to_pylist()
    told = {row["rule_id"]: row for row in rows}
    assert told["pipeline/secret"]["start_line"] == 7
    assert told["pipeline/secret"]["level"] == "error"
    assert told["pipeline/secret"]["file"] == "p.yaml"
    assert {row["tool"] for row in rows} == {"mlpm-audit"}
    assert "hush" not in out


SARIF_SHAPE = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {"items": {
            "required": ["tool", "results"],
            "properties": {
                "tool": {"required": ["driver"], "properties": {"driver": {
                    "required": ["name"],
                    "properties": {"rules": {"items": {"required": ["id"]}}},
                }}},
                "results": {"items": {
                    "required": ["message"],
                    "properties": {
                        "level": {"enum": ["none", "note", "warning", "error"]},
                        "kind": {"enum": ["notApplicable", "pass", "fail", "review", "open",
                                          "informational"]},
                        "ruleIndex": {"type": "integer", "minimum": 0},
                        "locations": {"items": {"properties": {"physicalLocation": {"properties": {
                            "region": {"properties": {"startLine": {"minimum": 1}}},
                        }}}}},
                    },
                }},
            },
        }},
    },
}  # fmt: skip
"""What the standard demands of the parts that are written."""


def test_a_sarif_log_has_the_shape_of_the_standard():
    found = [
        findings.Finding("a/b", severity, "here", "why", "mend") for severity in findings.ORDER
    ]
    for file in (None, pathlib.Path("p.yaml")):
        log = sarif.log([*found, findings.Finding("c/d", "low", "x", "why")], "1", file)
        jsonschema.validate(log, SARIF_SHAPE)
        (run,) = log["runs"]
        listed = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert listed == ["a/b", "c/d"]
        assert all(listed[each["ruleIndex"]] == each["ruleId"] for each in run["results"])
        informational = [each for each in run["results"] if each["kind"] == "informational"]
        assert {each["level"] for each in informational} == {"none"}
