"Object stores that run here, on free ports of this machine: SeaweedFS for S3, Azurite for Azure, an emulator for Google Cloud Storage."

import base64
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from processes import free_port, running, tool

BIN = Path(sys.executable).parent
BUCKET = "team"
KEY, SECRET = "stockml-key", "stockml-secret"
ACCOUNT, ACCOUNT_KEY = "teamaccount", base64.b64encode(b"the key of the account of the team").decode()


class Store(NamedTuple):
    "A server, and how a remote there is added."
    url: str
    endpoint: str
    settings: list[str]
    secrets: list[str]
    pid: int

    def add(self, name: str = "team", url: str | None = None, **other: str) -> list[str]:
        "The arguments of `stockml`; `other` differs from the right secrets."
        secrets = [f"{k}={other.get(k, v)}" for k, v in (s.split("=", 1) for s in self.secrets)]
        return ["remote", "add", name, url or self.url, *self.settings, *(part for s in secrets for part in ("--secret", s))]


def answers(url: str) -> bool:
    "Is a server there, whatever it says?"
    try:
        urlopen(url, timeout=5).close()  # noqa: S310
    except HTTPError as e:
        e.close()
    return True


@contextmanager
def seaweed(folder: Path, port: int | None = None) -> Iterator[Store]:
    "SeaweedFS with one bucket and one pair of keys; a second start with the same folder and port finds what the first one kept."
    from botocore.session import get_session

    port = port or free_port()
    folder.mkdir(exist_ok=True)
    rights = {"identities": [{"name": "team", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}]}
    (folder / "s3.json").write_text(json.dumps(rights))
    ports = [f"-{part}={free_port()}" for part in ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
                                                   "filer.port.grpc", "s3.port.grpc")]
    more = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.port={port}", f"-s3.config={folder / 's3.json'}",
            # nothing that is not needed here, and no word to anybody
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64", "-volume.max=100", "-volume.preStopSeconds=0"]
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "HOME": str(folder)}
    with running([BIN / "weed", "server", f"-dir={folder}", *ports, *more], lambda: answers(url), folder / "log", env=env) as process:
        s3 = get_session().create_client("s3", "us-east-1", endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET)
        if BUCKET not in [b["Name"] for b in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=BUCKET)
        try:
            yield Store(f"s3://{BUCKET}/data", url, ["--endpoint-url", url, "--set", "region=us-east-1"],
                        [f"access_key_id={KEY}", f"secret_access_key={SECRET}"], process.pid)
        finally:
            process.kill()  # told to end, it takes a quarter of a minute
            for used in (port, *(p.rpartition("=")[2] for p in ports)):
                for left in Path("/tmp").glob(f"seaweedfs-*-{used}.sock"):  # noqa: S108 (where it puts them, whatever one says)
                    left.unlink(missing_ok=True)


@contextmanager
def azurite(folder: Path) -> Iterator[Store]:
    "Azurite with one container."
    from azure.storage.blob import BlobServiceClient

    port = free_port()
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    args = [tool("azurite-blob"), "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence", "--blobPort", port]
    env = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}
    folder.mkdir(exist_ok=True)
    with running(args, lambda: answers(url), folder / "log", cwd=folder, env=env) as process:
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={url};"
        with BlobServiceClient.from_connection_string(text) as client:
            client.create_container(BUCKET)
        yield Store(f"azure://{BUCKET}/data", url, [], [f"connection_string={text}"], process.pid)


@contextmanager
def google(folder: Path) -> Iterator[Store]:
    "gcp-storage-emulator with one bucket; it asks nobody who they are."
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder.mkdir(exist_ok=True)
    args = [BIN / "gcp-storage-emulator", "start", "--quiet", "--in-memory", "--host", "127.0.0.1", "--port", port]
    with running([*args, "--default-bucket", BUCKET], lambda: answers(url), folder / "log", cwd=folder) as process:
        yield Store(f"gs://{BUCKET}/data", url, ["--endpoint-url", url, "--set", "allow_anonymous_login=true"], [], process.pid)
