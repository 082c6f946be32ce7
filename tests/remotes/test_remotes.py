"Remotes as they are set up, and data that goes there and comes back, on real servers."

import json
import shutil
import stat
from pathlib import Path

import pytest
from clones import FILES, enter, fill
from commands import call
from dvc.config_schema import REMOTE_SCHEMAS
from stores import KEY, SECRET

from stockml import doctor
from stockml.files import lock
from stockml.objects import Objects
from stockml.remotes import KINDS, config_of, explain, find_remote, read_remotes, settings_of
from stockml.remotes import SECRET as SECRETS


def contents(folder: Path) -> dict[str, bytes]:
    "What the stage made."
    return {str(p.relative_to(folder)): p.read_bytes() for p in [*(folder / "data").rglob("*"), folder / "model.bin"] if p.is_file()}


def configured(folder: Path) -> list[bytes]:
    return [p.read_bytes() if p.exists() else b"" for p in (folder / ".dvc/config", folder / ".dvc/config.local")]


def there_and_back(store, filled, clone, monkeypatch) -> None:
    "Add, check, push, and pull in a clone."
    assert (added := call(*store.add())).code == 0, added.err
    assert call("remote", "check", "--json").json()["remote"] == "team"
    sent = call("push", "--json").json()
    assert sent["files"] == FILES + 2  # and the list of the folder
    assert call("push", "--json").json()["files"] == 0
    bob = enter(clone(filled), monkeypatch)
    got = call("pull", "--json").json()
    assert (got["files"], sorted(got["paths"])) == (FILES + 2, ["data", "model.bin"])
    assert contents(bob) == contents(filled)
    assert call("pull", "--json").json()["paths"] == []


def test_s3(s3, filled, clone, monkeypatch):
    there_and_back(s3, filled, clone, monkeypatch)
    shared, own = configured(filled)
    assert KEY.encode() not in shared and SECRET.encode() not in shared and SECRET.encode() in own
    assert stat.S_IMODE((filled / ".dvc/config.local").stat().st_mode) == 0o600
    listed = call("remote", "list", "--json")
    assert SECRET not in listed.out and SECRET not in call("remote", "list").out
    assert listed.json()[0]["secrets"] == ["access_key_id", "secret_access_key"]


def test_s3_with_keys_of_the_environment(s3, filled, monkeypatch):
    assert call("remote", "add", "team", s3.url, *s3.settings).code == 0
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert call("remote", "check").code == 0
    assert not (filled / ".dvc/config.local").exists()


def test_azure(azure, filled, clone, monkeypatch):
    there_and_back(azure, filled, clone, monkeypatch)


def test_google(google, filled, clone, monkeypatch):
    there_and_back(google, filled, clone, monkeypatch)


def test_folder_is_what_one_has_who_has_no_remote(filled, clone, monkeypatch):
    before = configured(filled)
    done = call("push")
    assert done.code == 0, done.err
    assert "no remote yet: from now on folder" in done.err
    assert (filled.parent / "stockml-store").is_dir()
    assert configured(filled)[0] == before[0]  # only this clone's own file
    bob = enter(clone(filled), monkeypatch)
    (bob / ".dvc/config.local").unlink()
    assert call("pull").code == 0
    assert contents(bob) == contents(filled)


def test_relative_folder_is_found_from_everywhere(filled, monkeypatch):
    (filled / "deep").mkdir()
    monkeypatch.chdir(filled / "deep")
    assert call("remote", "add", "store", "../../elsewhere").code == 0
    assert [r.url for r in read_remotes(filled)] == [str(filled.parent / "elsewhere")]
    assert call("push").code == 0
    assert (filled.parent / "elsewhere/files/md5").is_dir()


def test_file_with_a_key_is_found_from_everywhere(filled):
    (filled / "key.json").write_text("{}")
    assert call("remote", "add", "g", "gs://team/x", "--secret", "credentialpath=key.json").code == 0
    assert config_of(filled)["remote"]["g"]["credentialpath"] == str(filled / "key.json")


def test_config_keeps_what_others_wrote(filled):
    path = filled / ".dvc/config"
    path.write_text("# ours\n[core]\n    analytics = false\n['remote \"old\"']\n    url = s3://old/place\n")
    assert call("remote", "add", "new", "gs://bucket/x", "--default").code == 0
    text = path.read_text()
    assert "# ours" in text and "s3://old/place" in text and "analytics = false" in text
    assert [(r.name, r.default) for r in read_remotes(filled)] == [("old", False), ("new", True)]
    assert call("remote", "remove", "new").code == 0
    assert [r.name for r in read_remotes(filled)] == ["old"]
    assert "core" in path.read_text()


def test_shared_default_wins_over_the_folder_of_before(filled):
    assert call("push").code == 0
    assert call("remote", "add", "team", "s3://team/x", "--default").code == 0
    assert [r.name for r in read_remotes(filled) if r.default] == ["team"]


def test_the_team_s_first_remote_is_the_default_of_all(filled, clone):
    assert call("push").code == 0  # the folder, for this clone
    assert call("remote", "add", "team", "../team").code == 0
    bob = clone(filled)
    (bob / ".dvc/config.local").unlink()
    for root in (filled, bob):
        assert find_remote(root).name == "team"
        with Objects(root) as store:
            assert store.remote.name == "team"
    assert call("remote", "add", "mine", "../mine", "--local", "--default").code == 0
    assert call("remote", "add", "archive", "../archive").code == 0
    assert (find_remote(filled).name, find_remote(bob).name) == ("mine", "team")


def test_the_one_remote_that_there_is_is_meant_everywhere(filled):
    with (filled / ".dvc/config").open("a") as f:
        f.write("['remote \"team\"']\n    url = ../../team\n")  # as `dvc remote add` leaves it
    (filled.parent / "team").mkdir()
    with Objects(filled) as store:
        assert (find_remote(filled).name, store.remote.name) == ("team", "team")
    assert doctor.check_remote(filled).says.startswith("team, ")


BAD = {
    "name": (["Team", "s3://team/x"], "a name is made of a-z"),
    "kind": (["x", "ftp://host/x"], "no such kind of remote"),
    "slip in the kind": (["x", "s3:team"], "no such kind of remote"),
    "http": (["x", "https://host/x"], "no such kind of remote"),
    "no bucket": (["x", "s3://"], "name the place as in s3://bucket/path"),
    "no container": (["x", "azure:///path"], "name the place as in azure://"),
    "query": (["x", "s3://team/x?versionId=1"], "name the place as in s3://"),
    "keys in the URL": (["x", "s3://ada:hunter2@team/x"], "no keys or passwords in a URL"),
    "a slash in the key": (["x", "s3://AKIA:hunter2/x@team/x"], "s3://…@team/x: no keys or passwords in a URL"),
    "an @ in the key": (["x", "s3://ada:p@hunter2@team"], "s3://…@team: no keys or passwords in a URL"),
    "key of another kind": (["x", "ssh://ada:hunter2@host/x"], "ssh://…@host/x: no keys or passwords in a URL"),
    "key and a slip": (["x", "s3:ada:hunter2@team"], "s3:…@team: no keys or passwords in a URL"),
    "signature": (["x", "azure://team/x?sig=hunter2"], "azure://team/x: name the place as in azure://"),
    "signature of another kind": (["x", "https://host/x?sig=hunter2"], "https://host/x: no such kind of remote"),
    "key in the endpoint": (["x", "s3://team", "--endpoint-url", "https://ada:hunter2@host"], "--endpoint-url: no keys or passwords"),
    "key in a slip": (["x", "s3://team", "--endpoint-url", "ada:hunter2@host"], "--endpoint-url: no keys or passwords"),
    "empty": (["x", ""], "an empty URL"),
    "inside": (["x", "store"], "lies inside the project"),
    "a file": (["x", "../file"], "is a file"),
    "unknown setting": (["x", "s3://team", "--set", "regoin=eu"], "S3 has no such setting; it has access_key_id"),
    "of another kind": (["x", "gs://team", "--profile", "ada"], "Google Cloud Storage has no such setting"),
    "no endpoint there": (["x", "azure://team", "--endpoint-url", "http://x"], "Azure Blob Storage has no such setting"),
    "no URL": (["x", "s3://team", "--endpoint-url", "localhost:9000"], "--endpoint-url: not http"),
    "bad value": (["x", "s3://team", "--set", "read_timeout=soon"], "read_timeout: expected int"),
    "bad truth": (["x", "s3://team", "--set", "use_ssl=perhaps"], "use_ssl: expected true or false"),
    "no value": (["x", "s3://team", "--set", "region"], "--set: not KEY=VALUE"),
    "no credentials file": (["x", "gs://team", "--secret", "credentialpath=/no/such.json"], "--secret credentialpath: no such file"),
    "the key instead of its file": (["x", "gs://team", "--secret", f"credentialpath={'hunter2' * 99}"], "credentialpath: no such file"),
} | {f"secret {key}": ([f"x{n}", f"{scheme}://team", "--set", f"{key}=hunter2"], f"--set {key}: a secret")
     for scheme in KINDS if scheme for n, key in enumerate(sorted(SECRETS)) if key in settings_of(scheme)}


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_changes_nothing(filled, args, message):
    (filled.parent / "file").write_text("")
    before = configured(filled)
    done = call("remote", "add", *args)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err and "hunter2" not in done.err
    assert configured(filled) == before


def test_each_setting_of_dvc_is_known_as_secret_or_not():
    "A new one in DVC's schema has to be looked at."
    word = ("key", "secret", "token", "password", "credential", "connection_string", "passphrase")
    open_ones = {"sse_kms_key_id", "exclude_environment_credential", "exclude_visual_studio_code_credential",
                 "exclude_shared_token_cache_credential", "exclude_managed_identity_credential", "gdrive_use_service_account",
                 "gdrive_service_account_user_email", "sse_customer_algorithm", "ask_password", "ask_passphrase", "bearer_token_command",
                 "cert_path", "key_path", "keyfile"}  # names of files, or what is asked for
    for scheme in REMOTE_SCHEMAS.keys() - {"remote"}:
        suspect = {s for s in settings_of(scheme) if any(w in s for w in word) or s.endswith("path")}
        assert suspect - SECRETS - open_ones - {"configpath"} == set()
    assert set().union(*map(settings_of, REMOTE_SCHEMAS)) >= SECRETS


def test_a_kind_that_only_dvc_sets_up_is_listed_without_its_secrets(filled):
    (filled / ".dvc/config").write_text("['remote \"old\"']\n    url = ssh://ada:hunter2@host/x\n    password = hunter2\n")
    done = call("remote", "list", "--json")
    assert "hunter2" not in done.out + call("remote", "list").out
    assert (done.json()[0]["secrets"], done.json()[0]["url"]) == (["password"], "ssh://…@host/x")
    assert str(explain(ImportError("no asyncssh"), find_remote(filled))).endswith("ssh needs a package: pip install dvc-ssh")


def test_twice_the_same_name(filled):
    assert call("remote", "add", "team", "../a").code == 0
    before = configured(filled)
    again = call("remote", "add", "team", "../b")
    assert (again.code, configured(filled)) == (2, before)
    assert "is there already" in again.err


@pytest.mark.parametrize("args", [["push"], ["pull"], ["remote", "check"]])
def test_which_remote(filled, args):
    shutil.rmtree(filled.parent / "stockml-store", ignore_errors=True)
    if args != ["push"]:
        assert "no remote yet: stockml remote add NAME URL" in (done := call(*args)).err
        assert done.code == 2
    call("remote", "add", "a", "../a")
    named = ["-r", "nobody"] if args[0] != "remote" else ["nobody"]
    assert "no remote 'nobody'; there are a" in call(*args, *named).err


def test_config_that_dvc_cannot_read_is_named_and_kept(filled):
    (filled / ".dvc/config").write_text("[core\n")
    before = configured(filled)
    for args in (["remote", "add", "x", "../x"], ["remote", "list"], ["push"]):
        done = call(*args)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert ".dvc" in done.err
    assert configured(filled) == before


def test_pull_overwrites_nothing_that_is_nowhere_else(filled, clone, monkeypatch):
    call("push")
    bob = enter(clone(filled), monkeypatch)
    call("pull")
    (bob / "model.bin").write_bytes(b"bob's own")
    done = call("pull")
    assert (done.code, (bob / "model.bin").read_bytes()) == (2, b"bob's own")
    assert "changed here and nowhere else: model.bin; stockml pull --force" in done.err
    assert call("pull", "--force").code == 0
    assert contents(bob) == contents(filled)


def test_pull_waits_for_no_run_and_goes_into_none(filled):
    "While a stage runs DVC has removed its outs, and its own lock is open."
    assert call("push").code == 0
    (filled / "model.bin").unlink()
    with lock(filled / "runs/.lock"):
        done = call("pull")
        assert (done.code, (filled / "model.bin").exists()) == (2, False)
    assert "another run of the pipeline is under way" in done.err
    assert call("pull").code == 0 and (filled / "model.bin").exists()


def test_push_says_what_is_nowhere(filled):
    oid = next(p for p in (filled / ".dvc/cache/files/md5").rglob("*") if p.is_file() and not p.name.endswith(".dir"))
    oid.unlink()
    done = call("push")
    assert done.code == 2
    assert "neither here nor in folder" in done.err
    fill(filled, b"first")  # what is in the project does not help, DVC sends from its cache
    assert "neither here nor in folder" in call("push").err


def test_json_of_a_list_without_remotes(filled):
    assert json.loads(call("remote", "list", "--json").out) == []
    assert "no remote" in call("remote", "list").out
