"The page for people, and the headers under which browsers run nothing but what is ours."

from mimetypes import guess_type
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import NotFound

PAGE = Path(__file__).with_name("page")
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' data:", "connect-src": "'self'",
    "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{k} {v}" for k, v in POLICY.items()), "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def add_pages(app: Flask) -> None:
    "Serve the folder `page`: its index at /, its files below /page."

    @app.get("/")
    def index() -> Response:
        return _file("index.html")

    @app.get("/page/<name>")
    def page(name: str) -> Response:
        return _file(name)

    @app.after_request
    def secure(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        if request.endpoint in ("index", "page"):
            response.headers.update(HEADERS)
        response.headers["Cache-Control"] = "no-cache" if request.endpoint in ("index", "page") else "no-store"
        return response


def _file(name: str) -> Response:
    "A file of the page, if it is one; browsers that have it already are told so."
    if name not in {path.name for path in PAGE.glob("*.*")}:
        raise NotFound
    response = Response((PAGE / name).read_bytes(), mimetype=guess_type(name)[0] or "application/octet-stream")
    response.add_etag()
    return response.make_conditional(request)
