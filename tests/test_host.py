"""What a record says of the machine and of the code."""

import shutil
import subprocess

import pytest

import wanjax.pipeline.host as host


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with the package in it, in place of this one."""
    if shutil.which("git") is None:
        pytest.skip("There is no git here.")
    package = tmp_path / "src/package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(host, "_PACKAGE", package)
    host.commit.cache_clear()
    yield tmp_path
    host.commit.cache_clear()


def git(folder, *args):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", folder, *who, *args], capture_output=True, check=True)
    return done.stdout.decode().strip()


def commit_all(folder):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "one")


def test_the_commit_of_a_checkout_and_whether_its_files_differ(repository):
    commit_all(repository)
    (repository / "notes.txt").write_text("beside the package")
    head = git(repository, "rev-parse", "HEAD")
    assert host.commit() == head
    host.commit.cache_clear()
    (repository / "src/package/__init__.py").write_text("changed = True")
    assert host.commit() == f"{head}+changes"


def test_a_package_that_is_installed_inside_somebodys_repository_has_no_commit(repository):
    """An environment in a project's folder: the project's commit says nothing of the package."""
    (repository / ".gitignore").write_text("src")
    commit_all(repository)
    assert host.commit() is None


def test_no_git_is_no_commit(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert host.commit() is None
