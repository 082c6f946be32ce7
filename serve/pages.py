"The page for people, and the headers under which browsers run nothing but what is ours."

from pathlib import Path

from flask import Flask, Response, request, send_from_directory

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
    def index():
        return send_from_directory(PAGE, "index.html")

    @app.get("/page/<path:name>")
    def page(name: str):
        return send_from_directory(PAGE, name)

    @app.after_request
    def secure(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        if request.endpoint in ("index", "page"):
            response.headers.update(HEADERS)  # and browsers ask whether it changed: send_file says so
        else:
            response.headers["Cache-Control"] = "no-store"
        return response
