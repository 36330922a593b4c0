#!/usr/bin/env python3
"""RustSec's advisories where RustSec cannot be reached: a copy in this repository, and the check of lock files against it.

  advisories.py check LOCK...     exit code 0: no crate is affected; 1: some are, and they are printed; 69: there is no copy
  advisories.py update CLONE      writes the copy anew from a clone of https://github.com/RustSec/advisory-db (Python 3.11 or newer)

The copy holds of every advisory what a check needs, and no text. It is data of the RustSec project under CC0-1.0.
ADVISORIES names another copy, for tests. `./dev check` calls this; where RustSec is reached, cargo-deny checks by itself.
"""
import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COPY = Path(os.environ.get("ADVISORIES", HERE / "advisories.tsv"))
DENY = HERE.parent / "deny.toml"
OLD_DAYS = 90
UNAVAILABLE = 69  # EX_UNAVAILABLE, as in ./dev
COLUMNS = ["id", "package", "kind", "patched", "unaffected"]


def version(text):
    """A version that sorts as SemVer says: a pre-release goes before its release, build metadata does not count."""
    core, _, pre = text.split("+")[0].partition("-")
    numbers = [int(part) for part in core.split(".")]
    numbers += [0] * (3 - len(numbers))
    parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in pre.split(".")] if pre else [(2, 0, "")]
    return numbers, parts


def caret(text):
    """The first version that `^text` does not mean."""
    given = [int(part) for part in text.split("-")[0].split("+")[0].split(".")]
    for index, number in enumerate(given):
        if number > 0 or index == len(given) - 1:
            return version(".".join(map(str, given[:index] + [number + 1])) + "-0")
    raise ValueError(text)


def tilde(text):
    """The first version that `~text` does not mean."""
    given = [int(part) for part in text.split("-")[0].split(".")]
    upper = given[:1] if len(given) == 1 else given[:2]
    return version(".".join(map(str, upper[:-1] + [upper[-1] + 1])) + "-0")


def meets(found, requirement):
    """Whether a version meets all comparisons of a requirement, as `>= 1.2, < 1.4`."""
    for comparison in requirement.split(","):
        operator, text = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~)?\s*([0-9][0-9A-Za-z.+-]*?)(?:\.\*)?\s*", comparison).groups()
        bound = version(text)
        met = {
            ">=": found >= bound,
            "<=": found <= bound,
            ">": found > bound,
            "<": found < bound,
            "=": found == bound,
            "~": bound <= found and (operator != "~" or found < tilde(text)),
        }.get(operator or "^")
        if met is None:
            met = bound <= found < caret(text)
        if not met:
            return False
    return True


def fail(code, message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def read_copy():
    if not COPY.is_file():
        fail(UNAVAILABLE, f"ADVISORIES WERE NOT CHECKED: RustSec cannot be reached, and the copy {COPY} is missing. "
             "Please restore it, or make it with: .ci/advisories.py update CLONE")
    header, _, *rows = COPY.read_text().splitlines()
    date = re.match(r"# RustSec of (\d{4}-\d{2}-\d{2}) ", header)
    if not date or not rows:
        fail(UNAVAILABLE, f"ADVISORIES WERE NOT CHECKED: {COPY} is no copy that `advisories.py update` wrote")
    return datetime.date.fromisoformat(date[1]), [dict(zip(COLUMNS, row.split("\t"))) for row in rows]


def packages(lock):
    """The crates of a lock file that come from a registry. Ours have no source and no advisory."""
    for block in Path(lock).read_text().split("[[package]]")[1:]:
        found = dict(re.findall(r'^(name|version|source) = "(.*)"$', block, re.M))
        if "source" in found:
            yield found["name"], found["version"]


def check(locks):
    date, advisories = read_copy()
    ignored = set(re.findall(r"RUSTSEC-\d{4}-\d{4}", re.search(r"^ignore = \[(.*?)\]", DENY.read_text(), re.M | re.S)[1]))
    by_package = {}
    for advisory in advisories:
        by_package.setdefault(advisory["package"], []).append(advisory)
    affected = 0
    for lock in locks:
        count = 0
        for name, found in packages(lock):
            count += 1
            for advisory in by_package.get(name, []):
                safe = [one for one in (advisory["patched"] + ";" + advisory["unaffected"]).split(";") if one]
                if advisory["id"] in ignored or any(meets(version(found), one) for one in safe):
                    continue
                affected += 1
                patched = advisory["patched"].replace(";", " or ") or "no version"
                print(f"error: {lock}: {name} {found} is affected by {advisory['id']} ({advisory['kind']}); patched: {patched}; "
                      f"https://rustsec.org/advisories/{advisory['id']}", file=sys.stderr)
        if count == 0:
            fail(1, f"{lock} names no crate of a registry")
        print(f"{lock}: {count} crates against {len(advisories)} advisories of {date}")
    days = (datetime.date.today() - date).days
    if days > OLD_DAYS:
        print(f"\nwarning: THE COPY OF RUSTSEC'S ADVISORIES IS {days} DAYS OLD: nothing newer than {date} was looked for. "
              "Please renew it: .ci/advisories.py update CLONE\n", file=sys.stderr)
    return 1 if affected else 0


def update(clone):
    import tomllib

    commit, date = subprocess.check_output(["git", "-C", clone, "log", "-1", "--format=%H %cs"], text=True).split()
    listed = subprocess.check_output(["git", "-C", clone, "ls-tree", "-r", "--name-only", "HEAD", "crates/"], text=True).split()
    rows = []
    for path in (path for path in listed if path.endswith(".md")):
        text = subprocess.check_output(["git", "-C", clone, "show", f"HEAD:{path}"], text=True)
        parsed = tomllib.loads(re.match(r"\s*```toml\n(.*?)\n```", text, re.S)[1])
        advisory, versions = parsed["advisory"], parsed.get("versions", {})
        if "withdrawn" in advisory:
            continue
        kind = advisory.get("informational", "vulnerability")
        row = [advisory["id"], advisory["package"], kind, *(";".join(versions.get(key, [])) for key in ("patched", "unaffected"))]
        rows.append("\t".join(row))
    rows.sort()
    header = f"# RustSec of {date} (advisory-db {commit[:12]}, CC0-1.0), by .ci/advisories.py: {len(rows)} advisories"
    COPY.write_text("\n".join([header, "# " + "\t".join(COLUMNS), *rows]) + "\n")
    print(header[2:])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check", *locks] if locks:
            sys.exit(check(locks))
        case ["update", clone]:
            update(clone)
        case _:
            print(__doc__, file=sys.stderr)
            sys.exit(64)
