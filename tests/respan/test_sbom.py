"""`make sbom`: the bill of materials is the lock file, whole, and well formed."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_locked_package_is_in_the_bill_with_its_hashes_and_needs() -> None:
    made = subprocess.run([sys.executable, ".ci/sbom", "requirements.txt"], cwd=ROOT, capture_output=True, check=True)
    bill = json.loads(made.stdout)
    lock = (ROOT / "requirements.txt").read_text()
    pinned = {(name.lower(), version) for name, version in re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)", lock, re.M)}
    assert {(each["name"], each["version"]) for each in bill["components"]} == pinned
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    hashes = [each for part in bill["components"] for each in part["externalReferences"][0]["hashes"]]
    assert len(hashes) == lock.count("--hash=sha256:")
    refs = {part["bom-ref"] for part in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    needs = {each["ref"]: set(each["dependsOn"]) for each in bill["dependencies"]}
    assert needs.keys() == refs
    assert set().union(*needs.values()) <= refs
    # Nothing is there that nobody needs.
    assert set().union(*needs.values()) == refs - {bill["metadata"]["component"]["bom-ref"]}
    named = sum("licenses" in part for part in bill["components"])
    assert named > len(bill["components"]) * 0.9


def test_the_same_lock_gives_the_same_bill() -> None:
    command = [sys.executable, ".ci/sbom", "requirements.txt"]
    assert len({subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout for _ in range(2)}) == 1
