"""The corpus of chains, shown to OpenSSL and to Go as well: we must never accept what they refuse."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hauberk.certs.authority import Authority
from tests.certs.chain_cases import CASES, Case
from tests.certs.forge import HOUR, NOW

OPENSSL, GO = shutil.which("openssl"), shutil.which("go")
GO_VERIFIER = Path(__file__).with_name("verify_chains.go")


def judge(name: str, case: Case, *, other: bool, who: str) -> str | None:
    """What is wrong about our verdict, if anything."""
    if case.accepted and not other:
        return f"{name}: we accept what {who} refuses"
    if other and not case.accepted and not case.only_ours:
        return f"{name}: we refuse what {who} accepts, and give no reason"
    return None


@pytest.mark.skipif(OPENSSL is None, reason="no openssl here: apt-get install openssl")
@pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
def test_verdicts_agree_with_openssl(tmp_path: Path, purpose: str) -> None:
    cases = {name: make() for name, make in CASES.items()}
    wrong = [
        judge(name, case, other=openssl_accepts(case, tmp_path / str(number), purpose), who="openssl")
        for number, (name, case) in enumerate(cases.items())
    ]
    assert list(filter(None, wrong)) == []


def openssl_accepts(case: Case, folder: Path, purpose: str) -> bool:
    folder.mkdir()
    (folder / "leaf.pem").write_bytes(case.chain[0].pem)
    (folder / "anchors.pem").write_bytes(b"".join(p.pem for p in (*case.anchors, *case.foreign_anchors)))
    others = b"".join(party.pem for party in (*case.chain[1:], *case.known))
    command = ["openssl", "verify", "-purpose", purpose, "-attime", str(int(NOW.timestamp())), "-x509_strict"]
    command += ["-no-CApath", "-no-CAstore", "-CAfile", str(folder / "anchors.pem")]
    if others:
        (folder / "others.pem").write_bytes(others)
        command += ["-untrusted", str(folder / "others.pem")]
    return subprocess.run([*command, str(folder / "leaf.pem")], capture_output=True).returncode == 0


@pytest.mark.skipif(OPENSSL is None, reason="no openssl here: apt-get install openssl")
@pytest.mark.parametrize(
    "taken", [(), ("prepare",), ("prepare", "activate"), ("prepare", "activate", "retire")]
)
def test_openssl_accepts_what_our_authority_issues(tmp_path: Path, taken: tuple[str, ...]) -> None:
    authority = Authority.create(tmp_path / "ca", "mesh.test", now=NOW)
    for step in taken:
        getattr(authority, step)(NOW)
    svid = authority.issue(authority.control_id, lifetime=HOUR, now=NOW, ip_addresses=["127.0.0.1"])
    files = {"chain": svid.chain_pem, "roots": authority.bundle.pem()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())), "-no-CApath"]
    command += ["-no-CAstore", "-CAfile", str(tmp_path / "roots"), "-untrusted", str(tmp_path / "chain")]
    for right, wrong in (
        (["-verify_hostname", "control.mesh.test"], ["-verify_hostname", "orders.mesh.test"]),
        (["-verify_ip", "127.0.0.1"], ["-verify_ip", "127.0.0.2"]),
    ):
        for purpose in ("sslclient", "sslserver"):
            accepted, refused = (
                subprocess.run(
                    [*command, "-purpose", purpose, *name, str(tmp_path / "chain")], capture_output=True
                )
                for name in (right, wrong)
            )
            assert accepted.returncode == 0, accepted.stderr.decode()
            assert refused.returncode != 0


@pytest.mark.skipif(GO is None, reason="no go here: install it from https://go.dev/dl")
def test_verdicts_agree_with_go(tmp_path: Path) -> None:
    cases = {name: make() for name, make in CASES.items()}
    asked = [
        {
            "leaf": case.chain[0].pem.decode(),
            "intermediates": b"".join(p.pem for p in (*case.chain[1:], *case.known)).decode(),
            "roots": b"".join(p.pem for p in (*case.anchors, *case.foreign_anchors)).decode(),
            "time": int(NOW.timestamp()),
        }
        for case in cases.values()
    ]
    source = tmp_path / "verify_chains.go"
    source.write_bytes(GO_VERIFIER.read_bytes())
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "GO111MODULE": "off"}
    done = subprocess.run(
        ["go", "run", str(source)],
        input=json.dumps(asked).encode(),
        capture_output=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers = json.loads(done.stdout)
    wrong = [
        judge(name, case, other=answer == "", who=f"go ({answer})")
        for (name, case), answer in zip(cases.items(), answers, strict=True)
    ]
    assert list(filter(None, wrong)) == []
