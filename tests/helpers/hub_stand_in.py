"""A stand-in for the Hugging Face Hub: as much of its HTTP interface as its library asks for, on this machine."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories in memory.

    Attributes:
      files: content by `user/repo` and name.
      asked: the method and path of each request, in order.
      private: what each repository was made as.
      address: where it is served.
    """

    def __init__(self):
        self.files, self.asked, self.private, self.address = {}, [], {}, ""

    def respond(self, method, path, body):
        """Return status, headers and content for a request."""
        parts = urllib.parse.unquote(urllib.parse.urlsplit(path).path).strip("/").split("/")
        self.asked.append((method, "/".join(parts)))
        if parts[:2] == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization', 'user')}/{asked['name']}"
            self.files.setdefault(name, {})
            self.private[name] = asked.get("visibility") == "private" or asked.get("private", False)  # by version
            return self._json({"url": f"{self.address}/{name}", "id": name, "name": name})
        if parts[:2] == ["api", "models"] and parts[4:5] == ["preupload"]:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if parts[:2] == ["api", "models"] and parts[4:5] == ["commit"]:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.files["/".join(parts[2:4])][entry["value"]["path"]] = content
            return self._json(
                {"commitUrl": f"{self.address}/{'/'.join(parts[2:4])}/commit/{COMMIT}", "commitOid": COMMIT}
            )
        if parts[2:3] == ["resolve"]:
            content = self.files.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
            if content is None:
                known = "/".join(parts[:2]) in self.files
                return 404, {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"}, b""
            etag = hashlib.sha256(content).hexdigest()
            return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content
        return 404, {}, b""

    @staticmethod
    def _json(content):
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


@contextlib.contextmanager
def served(hub):
    """Serve a hub while the block runs, and give its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = hub.respond(self.command, self.path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = _answer  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            hub.address = f"http://127.0.0.1:{server.server_port}"
            yield hub.address
        finally:
            server.shutdown()
            thread.join()
