"""Every name of uvicorn that `wats` uses: an upgrade can break these."""

import ast
from pathlib import Path

import uvicorn

import wats

SOURCE = Path(wats.__file__).parent
MODULE = {"Config", "Server"}
CONFIG = {
    *("app", "loop", "http", "ws", "lifespan", "log_config", "access_log", "proxy_headers"),
    *("server_header", "timeout_graceful_shutdown"),
}
SERVER = {
    *("config", "lifespan", "server_state", "should_exit", "force_exit"),
    *("startup", "shutdown", "capture_signals", "handle_exit", "serve"),
}
PARTS = {
    ("config", "loaded_app"),
    ("lifespan", "state"),
    ("lifespan", "shutdown"),
    ("server_state", "connections"),
}
STATE = {"connections", "tasks", "total_requests", "default_headers"}


def attributes(tree: ast.AST) -> set[tuple[str, str]]:
    """Return all `a.b` in *tree*, also those within `x.a.b`, and `super().b`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            value = node.value
            name = getattr(value, "attr", getattr(value, "id", ""))
            if isinstance(value, ast.Call):
                name = getattr(value.func, "id", "")
            found.add((name, node.attr))
    return found


def test_only_the_server_module_uses_uvicorn() -> None:
    users = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if "import uvicorn" in (text := path.read_text("utf-8")) or "from uvicorn" in text
    ]

    assert users == ["process/server.py"]


def test_these_names_of_uvicorn_are_used_and_no_others() -> None:
    tree = ast.parse((SOURCE / "process/server.py").read_text("utf-8"))
    used = attributes(tree)
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "uvicorn.Config"
    ]
    inherited = {name for of, name in used if of in {"self", "super"} and hasattr(plain(), name)}

    assert {name for of, name in used if of == "uvicorn"} == MODULE
    assert {word.arg for call in calls for word in call.keywords} | {"app"} == CONFIG
    assert inherited - {"__init__"} <= SERVER
    assert {pair for pair in used if pair[0] in {"config", "lifespan", "server_state"}} == PARTS


def plain() -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(lambda: None, log_config=None))


def test_uvicorn_has_these_names() -> None:
    server = plain()
    server.config.load()

    assert all(hasattr(server, name) for name in SERVER - {"lifespan"})
    assert all(hasattr(server.server_state, name) for name in STATE)
    assert hasattr(server.config, "loaded_app")
    assert hasattr(server.config.lifespan_class(server.config), "state")
