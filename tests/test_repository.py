"""Check the files that the repository's host and package indexes read. No package is imported."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def _jobs(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


@each_workflow
def test_a_workflow_is_whole(path):
    jobs = _jobs(path)
    for job in jobs.values():
        assert (
            job["runs-on"]
            and job["timeout-minutes"]
            and set(job.get("needs", "").split()) <= set(jobs)
        )
        for step in job["steps"]:
            assert len({"uses", "run"} & set(step)) == 1, step
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1")), step


@each_workflow
def test_a_workflow_runs_what_exists(path):
    text = path.read_text(encoding="utf-8")
    for command in re.findall(r"- run: make (.+)", text):
        for target in command.split():
            assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), target
    for file in re.findall(r"(?:- run: |\{project\}/)(\S*/\S+)", text):
        assert (ROOT / file).is_file(), file


def test_hosted_tests_use_the_oldest_and_the_newest_python():
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    matrix = _jobs(ROOT / ".github/workflows/ci.yml")["run"]["strategy"]["matrix"]
    assert matrix["python"] == [named[0], named[-1]]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_is_whole(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] == "textarea" and field["attributes"]["label"], field


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    source = (ROOT / "seqjax/__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{cited["version"]}"' in source
    assert cited["license"] == PROJECT["project"]["license"]
    assert [author["name"] for author in cited["authors"]] == [
        author["name"] for author in PROJECT["project"]["authors"]
    ]


def test_the_sdist_holds_the_build_hook():
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    hook = targets["wheel"]["hooks"]["custom"]["path"]
    assert (ROOT / hook).is_file() and hook in targets["sdist"]["only-include"]
