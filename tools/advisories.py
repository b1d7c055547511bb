"""Whether an advisory is known for a version that locks/ pins: `make advisories`.

Asks OSV (https://osv.dev), which has the advisories of PyPI and GitHub. Exit status 0 none, 1 some, 2 it cannot be asked from here.
"""

import argparse
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

LOCKS = Path(__file__).parent.parent / "locks"
ADDRESS = "https://api.osv.dev/v1/querybatch"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pinned(folder: Path = LOCKS) -> list[tuple[str, str]]:
    """Every package and version that a lock names."""
    texts = [file.read_text("utf-8") for file in sorted(folder.glob("*.txt"))]
    return sorted({(name.lower(), version) for text in texts for name, version in _PIN.findall(text)})


def advisories(packages: Sequence[tuple[str, str]], address: str = ADDRESS) -> dict[tuple[str, str], list[str]]:
    """The ids of what is known of each package of which something is. Raises OSError or ValueError when there is no answer."""
    asked = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in packages]
    request = urllib.request.Request(
        address, json.dumps({"queries": asked}).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        results = json.load(answer)["results"]
    if len(results) != len(packages):
        raise ValueError(f"{len(results)} answers to {len(packages)} questions")
    found = {
        package: [each["id"] for each in result.get("vulns", ())]
        for package, result in zip(packages, results, strict=True)
    }
    return {package: ids for package, ids in found.items() if ids}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default=ADDRESS, help="of another database that speaks as OSV does")
    address = parser.parse_args(arguments).address
    packages = pinned()
    try:
        found = advisories(packages, address)
    except (OSError, ValueError, KeyError) as error:
        print(f"The advisories were not read ({error}); nothing was checked. Run this where {address} can be reached.")
        return 2
    for (name, version), ids in found.items():
        print(f"{name} {version}: {', '.join(ids)}")
    print(f"{len(packages)} versions, {len(found)} with advisories")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
