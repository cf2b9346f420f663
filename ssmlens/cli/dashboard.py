"""`ssmlens dashboard`."""

import dataclasses
from pathlib import Path

import tyro

from ssmlens.cli.command import Result
from ssmlens.cli.terminal import say


@dataclasses.dataclass(frozen=True)
class DashboardCommand:
    """Open the dashboard, to browse what every layer of a capture attends to. Ctrl-C stops it."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Captures, runs, attributions (NAME.json of `ssmlens attribute`), or folders of them.
    Default: the current folder, with its demo/."""
    host: str = "127.0.0.1"
    """Address to listen on. An address other than this computer's own requires a token from readers."""
    port: int = 8050
    """Port to listen on; 0 takes a free one."""
    follow_links: bool = False
    """Follow links in these folders, including links that lead out of them."""
    browser: bool = True
    """Open a browser; --no-browser only prints the address."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Serve until Ctrl-C."""
        return self.serve()

    def serve(self, view: str = "") -> Result:
        """Serve until Ctrl-C; open `view`, the part of the URL after the first slash."""
        import secrets
        import webbrowser

        from ssmlens.extras import extra

        with extra("dashboard", "ssmlens dashboard"):
            from ssmlens_dashboard.app import make_app
            from ssmlens_dashboard.guard import Access
            from ssmlens_dashboard.serve import listen, serve

        leave_cores()
        with listen(self.host, self.port) as socket:
            port = socket.getsockname()[1]
            access = Access(self.host, port)
            if not access.local:
                access = dataclasses.replace(access, token=secrets.token_urlsafe(24))
            app = make_app(self.paths or (Path(),), access, self.follow_links)
            address = access.address + view

            def ready() -> None:
                if not self.json:
                    say(f"{address}  (Ctrl-C ends it)")
                if self.browser:
                    webbrowser.open(address)

            serve(socket, app.server, ready)
        return Result({"address": address}, "closed")


def leave_cores() -> None:
    """Halve torch's thread count, to one at least: the browser needs the other cores to draw.

    On two busy cores a channel's map of 2048 tokens took five times the processor time with two threads, each waiting
    for the other.
    """
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // 2))


def side_by_side(one: Path, other: Path, layer: int) -> str:
    """Return the view that compares a layer of two captures in a folder, as `DashboardCommand.serve` takes it."""
    from ssmlens_dashboard.address import Address, Place
    from ssmlens_dashboard.library import Library

    ids = {entry.path: entry.id for entry in Library([one, other]).entries("capture")}
    place = Place(ids[other.resolve()], layer, prompt=0)
    at = Address("compare", ids[one.resolve()], layer, against=(place,), limits="own")
    return at.href.removeprefix("/")


COMMAND = DashboardCommand
