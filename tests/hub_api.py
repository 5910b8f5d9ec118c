"""A Hugging Face Hub in memory: its repositories, and the endpoints that the client uses.

As on the real Hub, LFS files are at another address, and the Hub redirects to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import yaml
from hub_faults import Answer

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_REV = r"(?P<rev>[^/]+)"
_OBJECT = r"/lfs-objects/(?P<oid>[0-9a-f]{64})"
ROUTES = (  # method, path, and the method of _Api that answers
    ("GET", rf"/{_REPO}/resolve/{_REV}/(?P<path>.+)", "resolve"),
    ("GET", _OBJECT, "get_object"),
    ("PUT", _OBJECT, "put_object"),
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create"),
    ("GET", rf"/api/models/{_REPO}", "info"),
    ("GET", rf"/api/models/{_REPO}/revision/{_REV}", "info"),
    ("GET", rf"/api/models/{_REPO}/tree/{_REV}(?:/(?P<path>.+))?", "tree"),
    ("POST", rf"/api/models/{_REPO}/paths-info/{_REV}", "paths_info"),
    ("POST", rf"/api/models/{_REPO}/preupload/{_REV}", "preupload"),
    ("POST", rf"/api/models/{_REPO}/commit/{_REV}", "commit"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/verify", "lfs_verify"),
)


class Refusal(Exception):
    """A request that is answered with an error, as the real Hub words it."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message} if code else {"X-Error-Message": message}
        self.answer = _json({"error": message}, status, {**named, **{k.replace("_", "-"): headers[k] for k in headers}})


@dataclass(frozen=True)
class File:
    """A file of a commit.

    `oid` is the hash of its git blob. The blob of an LFS file is a pointer, of `pointer` bytes.
    """

    content: bytes
    lfs: bool
    sha256: str
    oid: str
    pointer: int

    @classmethod
    def of(cls, content: bytes, *, lfs: bool) -> File:
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        blob = pointer if lfs else content
        return cls(content, lfs, sha256, hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest(), len(pointer))

    def to_json(self, path: str) -> dict[str, Any]:
        large = {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": self.pointer}}
        return {"type": "file", "path": path, "size": len(self.content), "oid": self.oid, **(large if self.lfs else {})}


@dataclass
class Repo:
    """A repository: its commits, from the first one to main. A commit never changes."""

    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    @property
    def main(self) -> str:
        return next(reversed(self.commits))

    def commit(self, files: Mapping[str, File]) -> str:
        content = sorted((path, file.oid) for path, file in files.items())
        name = hashlib.sha1(json.dumps([list(self.commits)[-1:], content]).encode()).hexdigest()
        self.commits[name] = dict(files)
        return name


class HubFile:
    """The repositories and LFS objects of one Hub.

    `token` belongs to the owner, who may write. `guest_token` belongs to another user.
    All *.safetensors files and all files of more than `lfs_above` bytes are LFS objects.
    """

    def __init__(self, *, lfs_above: int = 10 * 2**20) -> None:
        self.lfs_above = lfs_above
        self.token, self.guest_token = "hf_" + secrets.token_hex(16), "hf_" + secrets.token_hex(16)
        self.url = self.cdn_url = ""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # by sha256
        self.lock = threading.RLock()

    def add(self, repo_id: str, files: Mapping[str, bytes], *, lfs: Collection[str] | None = None) -> str:
        """Commit exactly these files to main, and return the commit. A missing repository is created.

        `lfs` has the paths of the LFS objects. With None the Hub's rule decides (safetensors and large files).
        """
        with self.lock:
            made = {
                path: File.of(content, lfs=self.is_large(path, len(content)) if lfs is None else path in lfs)
                for path, content in files.items()
            }
            self.objects.update({file.sha256: file.content for file in made.values() if file.lfs})
            return self.repos.setdefault(repo_id, Repo()).commit(made)

    def files(self, repo_id: str, rev: str = "main") -> dict[str, bytes]:
        with self.lock:
            repo = self.repos[repo_id]
            return {path: file.content for path, file in repo.commits[repo.main if rev == "main" else rev].items()}

    def gate(self, repo_id: str) -> None:
        """Let everybody list the files of a repository, but only the owner download them."""
        self.repos[repo_id].gated = True

    def private(self, repo_id: str) -> None:
        """Hide a repository from everybody but the owner."""
        self.repos[repo_id].private = True

    def is_large(self, path: str, size: int) -> bool:
        return path.endswith(".safetensors") or size > self.lfs_above

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answer:
        parts = urlsplit(target)
        for verb, pattern, name in ROUTES:
            match = re.fullmatch(pattern, parts.path)
            if match and verb == ("GET" if method == "HEAD" else method):
                named = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                api = _Api(self, headers, {key: values[-1] for key, values in parse_qs(parts.query).items()}, body)
                try:
                    with self.lock:
                        answer: Answer = getattr(api, name)(**named)
                        return answer
                except Refusal as refusal:
                    return refusal.answer
        return _json({"error": f"no such endpoint: {method} {parts.path}"}, 404)


@dataclass
class _Api:
    """One request. Each route has a method, which gets the named parts of the path and returns the answer."""

    hub: HubFile
    headers: Message
    query: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def user(self) -> str | None:
        """Return "owner", "guest", or None without a token."""
        header = self.headers.get("Authorization")
        users = {f"Bearer {self.hub.token}": "owner", f"Bearer {self.hub.guest_token}": "guest"}
        if header is not None and header not in users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return None if header is None else users[header]

    def require_owner(self) -> None:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user != "owner":
            raise Refusal(403, "You have no right to write")

    def find_readable(self, repo: str) -> Repo:
        repository, user = self.hub.repos.get(repo), self.user()
        if repository is None or (repository.private and user != "owner"):
            # Without a token, the real Hub does not say whether a repository is private or does not exist.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return repository

    def find_writable(self, repo: str, rev: str = "main") -> Repo:
        repository = self.find_readable(repo)
        self.require_owner()
        self.find_commit(repository, rev)
        return repository

    def find_commit(self, repo: Repo, rev: str) -> tuple[str, dict[str, File]]:
        commit = repo.main if rev == "main" else rev
        if commit not in repo.commits:
            raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return commit, repo.commits[commit]

    def resolve(self, repo: str, rev: str, path: str) -> Answer:
        repository, user = self.find_readable(repo), self.user()
        if repository.gated and user != "owner":
            raise Refusal(403 if user else 401, f"Access to model {repo} is restricted.", "GatedRepo")
        commit, files = self.find_commit(repository, rev)
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit)
        file, headers = files[path], {"X-Repo-Commit": commit}
        if not file.lfs:
            return self.answer_range(file.content, {**headers, "ETag": f'"{file.oid}"'})
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        # As on the real Hub, the name is in the query. So a fault can be meant for one file.
        return Answer(
            302, {**headers, "Location": f"{self.hub.cdn_url}/lfs-objects/{file.sha256}?filename={quote(path)}"}
        )

    def answer_range(self, content: bytes, headers: dict[str, str]) -> Answer:
        """Answer with the content, or with the range of it that the request asks for."""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or not any(asked.groups()):
            return Answer(200, headers, content)
        first, last, size = *asked.groups(), len(content)
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            return Answer(416, {**headers, "Content-Range": f"bytes */{size}"})
        return Answer(206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, content[start:stop], start)

    def get_object(self, oid: str) -> Answer:
        if oid not in self.hub.objects:
            raise Refusal(404, "no such object")
        return self.answer_range(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    def put_object(self, oid: str) -> Answer:
        """Store an object. As with a signed address, whoever has the address may write."""
        if self.query.get("signature") != self._signature(oid, self.query.get("size", "")):
            raise Refusal(403, "SignatureDoesNotMatch")
        if len(self.body) != int(self.query["size"]) or hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "XAmzContentSHA256Mismatch")
        self.hub.objects[oid] = self.body
        return Answer(200, {"ETag": f'"{oid}"'})

    def _signature(self, oid: str, size: str) -> str:
        return hashlib.sha256(f"{self.hub.token} {oid} {size}".encode()).hexdigest()

    def whoami(self) -> Answer:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        access = {"displayName": user, "role": "write" if user == "owner" else "read"}
        return _json(
            {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token", "accessToken": access}}
        )

    def validate_yaml(self) -> Answer:
        """Check that the card's metadata is a YAML mapping between two lines of dashes; warn if there is none."""
        header = re.match(r"---\r?\n(.*?)^---\s*$", self.json()["content"], re.DOTALL | re.MULTILINE)
        try:
            metadata = yaml.safe_load(header[1]) if header else None
        except yaml.YAMLError as error:
            return _json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        if not isinstance(metadata, dict | None):
            return _json({"errors": [{"message": "the metadata must be an object"}], "warnings": []}, 400)
        empty = {"message": "empty or missing yaml metadata in repo card"}
        return _json({"errors": [], "warnings": [] if metadata else [empty]})

    def create(self) -> Answer:
        self.require_owner()
        asked = self.json()
        if asked.get("type", "model") != "model":
            raise Refusal(400, "only models are kept here")
        repo = f"{asked.get('organization') or 'owner'}/{asked['name']}"
        made = {"url": f"{self.hub.url}/{repo}", "name": repo}
        if repo in self.hub.repos:
            return _json({**made, "error": "You already created this model repo"}, 409)
        self.hub.add(repo, {".gitattributes": ATTRIBUTES})
        self.hub.repos[repo].private = bool(asked.get("private")) or asked.get("visibility") == "private"
        return _json(made)

    def info(self, repo: str, rev: str = "main") -> Answer:
        repository = self.find_readable(repo)
        commit, files = self.find_commit(repository, rev)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(files)]
        for sibling in siblings if self.query.get("blobs") else []:
            file = files[sibling["rfilename"]]
            sibling |= {"size": len(file.content), "blobId": file.oid}
            if file.lfs:
                sibling["lfs"] = {"sha256": file.sha256, "size": len(file.content), "pointerSize": file.pointer}
        known = {
            "id": repo,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
        }
        return _json({**known, "disabled": False, "tags": [], "siblings": siblings})

    def tree(self, repo: str, rev: str, path: str = "") -> Answer:
        listed = _listing(self.find_commit(self.find_readable(repo), rev)[1])
        under = path.rstrip("/") + "/" if path else ""
        if under and under[:-1] not in listed:
            raise Refusal(404, f"{path} does not exist on {rev}", "EntryNotFound")
        below = {name: entry for name, entry in listed.items() if name.startswith(under)}
        if self.query.get("recursive") != "true":
            below = {name: entry for name, entry in below.items() if "/" not in name[len(under) :]}
        return _json(list(below.values()))

    def paths_info(self, repo: str, rev: str) -> Answer:
        listed = _listing(self.find_commit(self.find_readable(repo), rev)[1])
        paths = parse_qs(self.body.decode()).get("paths", [])
        return _json([listed[path] for path in paths if path in listed])

    def preupload(self, repo: str, rev: str) -> Answer:
        present = self.find_commit(self.find_writable(repo, rev), rev)[1]
        modes = []
        for file in self.json()["files"]:
            path, old = file["path"], present.get(file["path"])
            mode = "lfs" if self.hub.is_large(path, file["size"]) else "regular"
            oid = old and (old.sha256 if old.lfs else old.oid)
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return _json({"files": modes, "commitOid": self.hub.repos[repo].main})

    def lfs_batch(self, repo: str) -> Answer:
        self.find_writable(repo)
        objects = []
        for asked in self.json()["objects"]:
            oid, size = asked["oid"], asked["size"]
            given: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                query = urlencode({"size": size, "signature": self._signature(oid, str(size))})
                verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/objects/verify"}
                upload = {"href": f"{self.hub.cdn_url}/lfs-objects/{oid}?{query}"}
                given["actions"] = {"upload": upload, "verify": verify}
            objects.append(given)
        return _json({"transfer": "basic", "objects": objects})

    def lfs_verify(self, repo: str) -> Answer:
        self.find_writable(repo)
        self._uploaded(self.json(), 404)
        return _json({})

    def _uploaded(self, pointer: Mapping[str, Any], status: int) -> bytes:
        content = self.hub.objects.get(pointer["oid"])
        if content is None or pointer.get("size", len(content)) != len(content):
            raise Refusal(status, f"LFS object {pointer['oid']} of this size was not uploaded")
        return content

    def commit(self, repo: str, rev: str) -> Answer:
        """Make a commit of all lines of the request, or of none."""
        repository = self.find_writable(repo, rev)
        if self.query.get("create_pr") or rev != "main":
            raise Refusal(400, "only main takes commits here")
        files = dict(repository.commits[repository.main])
        for line in self.body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            path = value.get("path", "")
            gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            if key == "header":
                if value.get("parentCommit", repository.main) != repository.main:
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[path] = File.of(base64.b64decode(value["content"], validate=True), lfs=False)
            elif key == "lfsFile":
                files[path] = File.of(self._uploaded(value, 400), lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                if not gone or (key == "deletedFile") != (gone == [path]):
                    raise Refusal(404, f"A {key[7:].lower()} with this name doesn't exist: {path}", "EntryNotFound")
                files = {name: file for name, file in files.items() if name not in gone}
            else:
                raise Refusal(400, f"unknown key {key}")
        made = repository.commit(files)
        return _json({"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/{repo}/commit/{made}"})


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    named = {**(headers or {}), "Content-Type": "application/json; charset=utf-8"}
    return Answer(status, named, json.dumps(value).encode())


def _listing(files: Mapping[str, File]) -> dict[str, dict[str, Any]]:
    """List all files and the folders that contain them, by path."""
    folders = {path[:at] for path in files for at, character in enumerate(path) if character == "/"}
    listed = {path: file.to_json(path) for path, file in files.items()}
    for path in folders:
        listed[path] = {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
    return dict(sorted(listed.items()))
