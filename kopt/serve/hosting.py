"""Which versions of a model are in memory: new ones come in beside the old, damaged ones stay out.

The newest version that stands (see `kopt.serve.versions`) and loads is served, with those that have a label. A version
leaves only when what replaces it is there, after the requests that it has taken.
"""

import asyncio
import contextlib
import dataclasses
import functools
import gc
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kopt.core.errors import KoptError, LoadError, NotServedError, RequestError
from kopt.core.records.shipping.serving import ServerSettings, VersionStatus
from kopt.measure import Runner
from kopt.serve.batcher import Batcher
from kopt.serve.loaded import Loaded, Signature, fingerprint, from_runner, has_manifest, load_version
from kopt.serve.metrics import Metrics
from kopt.serve.versions import path_of, present, read_state

# Until a version is tried again that failed for a reason that may pass, such as want of memory.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0


@dataclasses.dataclass(eq=False)
class Serving:
    """A version that takes requests: what it was loaded from, a queue for each signature, and who uses it."""

    version: int
    source: Any
    loaded: Loaded
    queues: dict[str, Batcher]
    users: int = 0
    left: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keep the version from going while a request is read, answered and written."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            self.left.set()

    async def free(self) -> None:
        """Wait until no request uses it."""
        while self.users:
            self.left.clear()
            await self.left.wait()

    def signature(self, name: str) -> tuple[Signature, Batcher]:
        """Return a signature and its queue.

        Raises:
            RequestError: there is none of that name.
        """
        if name not in self.queues:
            raise RequestError(f'Serving signature name: "{name}" not found in signature def')
        return self.loaded.signatures[name], self.queues[name]

    @property
    def waiting(self) -> int:
        """Examples in the queues of all signatures."""
        return sum(queue.waiting for queue in self.queues.values())


class Host:
    """Loads, serves and lets go of the versions of one model. Its methods run in the event loop."""

    def __init__(
        self,
        name: str,
        model: Path | Runner,
        settings: ServerSettings,
        metrics: Metrics,
        log: Callable[[str], None],
        *,
        safe_mode: bool = True,
    ):
        self.name = name
        self.labels: dict[str, int] = {}
        self.refused: dict[int, str] = {}
        self.on_load: Callable[[int, Path | None], None] = lambda version, path: None
        self.on_leave: Callable[[int], None] = lambda version: None
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self.log = log
        self._safe_mode = safe_mode
        self._serving: dict[int, Serving] = {}
        self._newest = 0
        self._loading: set[int] = set()
        self._refused_as: dict[int, Any] = {}
        self._without_manifest: set[int] = set()
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._gone: set[int] = set()
        self._stayed: dict[str, int] = {}
        self._file: tuple[int, Any] = (0, None)
        self._has_versions = False
        self._hindrance = ""
        self._pauses: dict[int, tuple[float, float]] = {}

    async def start(self) -> None:
        """Load what is to be served.

        Raises:
            LoadError: no version can be.
        """
        await self.refresh(first=True)
        if not self._serving:
            reasons = "; ".join(f"version {version}: {reason}" for version, reason in self.refused.items())
            why = reasons or self._hindrance or "It is empty."
            raise LoadError(f"{self._model} holds no version that can be served. {why}")

    async def refresh(self, *, first: bool = False) -> None:
        """Look once at what is on the disk and follow it.

        Args:
            first: take versions without a manifest at once; later they get one more look to get one.
        """
        wanted = self._wanted()
        if wanted is None:
            return
        paths, standing, labels = wanted
        chosen = None
        for version in standing:
            if await self._ready(version, paths[version], first):
                chosen = version
                break
        for version in set(labels.values()) & set(paths):
            await self._ready(version, paths[version], first)
        self.labels = self._served(labels)
        if chosen is None:
            return
        self._newest = chosen
        for version in set(self._serving) - {chosen, *self.labels.values()}:
            self._retire(version)

    def _served(self, labels: dict[str, int]) -> dict[str, int]:
        """Return which version each label means: the one that it had, where the new one is not served."""
        found: dict[str, int] = {}
        for label, version in labels.items():
            stays = self.labels.get(label)
            if version in self._serving:
                found[label] = version
            elif stays in self._serving:
                found[label] = stays
                if self._stayed.get(label) != version:
                    self.log(f"label {label} stays at version {stays}: version {version} is not served")
            self._stayed[label] = version
        return found

    def find(self, version: int | None = None, label: str | None = None) -> Serving:
        """Return the version that a request asks for; the newest if it asks for none.

        Raises:
            NotServedError: it is not served.
        """
        if label is not None:
            if label not in self.labels:
                raise NotServedError(f"Unrecognized servable version label: {label}")
            version = self.labels[label]
        found = self._serving.get(self._newest if version is None else version)
        if found is None:
            asked = f"Latest({self.name})" if version is None else f"Specific({self.name}, {version})"
            raise NotServedError(f"Servable not found for request: {asked}")
        return found

    def statuses(self, version: int | None = None, label: str | None = None) -> list[VersionStatus]:
        """Return the state of every version that was ever looked at, the newest first.

        Raises:
            NotServedError: the one asked for is not known.
        """
        known = [
            *(VersionStatus(number, "AVAILABLE") for number in self._serving),
            *(VersionStatus(number, "LOADING") for number in self._loading),
            *(VersionStatus(number, "UNLOADING") for number in self._leaving),
            *(VersionStatus(number, "END", "DATA_LOSS", reason) for number, reason in self.refused.items()),
            *(VersionStatus(number, "END") for number in self._gone),
        ]
        by_version = {status.version: status for status in reversed(known)}
        if label is not None:
            version = self.find(label=label).version
        if version is not None:
            if version not in by_version:
                raise NotServedError(f"Could not find version {version} of model {self.name}")
            return [by_version[version]]
        return sorted(by_version.values(), key=lambda status: -status.version)

    def waiting(self) -> int:
        """Return the examples in all queues."""
        return sum(serving.waiting for serving in self._serving.values())

    async def close(self) -> None:
        """Answer what waits and let go of all versions."""
        self.on_leave = lambda version: None  # what was seen of them is still to be told
        for version in list(self._serving):
            self._retire(version)
        await asyncio.gather(*self._leaving.values())

    def _wanted(self) -> tuple[dict[int, Any], list[int], dict[str, int]] | None:
        """Return what could be loaded by version, the order in which to try for the newest, and the labels.

        `None` where the directory does not say: what is in memory then goes on, with the labels that it has.
        """
        if isinstance(self._model, Runner):
            return {1: self._model}, [1], {}
        versions = present(self._model) if not (self._model / "saved_model.pb").is_file() else ()
        if versions:
            self._has_versions = True
            try:
                state = read_state(self._model)
            except LoadError as error:
                self._hindered(str(error))
                return None
            self._hindered("")
            standing = [version for version in reversed(versions) if version not in state.withdrawn]
            return {version: path_of(self._model, version) for version in versions}, standing, state.labels
        if self._has_versions:
            self._hindered(f"{self._model} holds no version any more; those that are served go on.")
            return None
        if self._model.is_dir() and not (self._model / "saved_model.pb").is_file():
            return None
        number = self._file_version(self._model)
        return {number: self._model}, [number], {}

    def _hindered(self, why: str) -> None:
        """Say what keeps the directory from being followed, once."""
        if why and why != self._hindrance:
            self.log(why)
        self._hindrance = why

    def _file_version(self, path: Path) -> int:
        """Return the number of what a single file holds now: one more whenever it was written anew."""
        number, seen = self._file
        now = fingerprint(path)
        if now != seen and path.exists():
            named = path.name if number == 0 and path.is_dir() and path.name.isdigit() else ""
            self._file = (int(named) if named else number + 1, now)
        return self._file[0]

    async def _ready(self, version: int, source: Any, first: bool) -> bool:
        """Return whether a version is served, after trying to load it if it was not tried as it is."""
        if version in self._serving:
            return True
        threads, workers = self._settings.threads, self._settings.workers
        if isinstance(source, Runner):
            return await self._admit(version, source, lambda: from_runner(source, workers=workers))
        mark = fingerprint(source)
        if self._refused_as.get(version) == mark and time.monotonic() < self._pauses.get(version, (0.0, math.inf))[1]:
            return False
        if not first and not has_manifest(source) and version not in self._without_manifest:
            self._without_manifest.add(version)  # its writer may be about to write it
            return False
        self._refused_as[version] = mark
        load = functools.partial(load_version, threads=threads, workers=workers, safe_mode=self._safe_mode)
        return await self._admit(version, source, lambda: load(source))

    async def _admit(self, version: int, source: Any, load: Callable[[], Loaded]) -> bool:
        self._loading.add(version)
        loop = asyncio.get_running_loop()
        try:
            loaded = await loop.run_in_executor(None, load)
        except Exception as error:  # noqa: BLE001 - a runner of the user may raise anything; the version that serves goes on
            self.refused[version] = str(error) or type(error).__name__
            self._pause(version, error)
            self._metrics.count("kopt_loads_total", outcome="refused")
            self.log(f"{self.name} version {version} is refused: {error}")
            return False
        finally:
            self._loading.discard(version)
        queues = {
            key: Batcher(one.crew, self._settings, self._metrics.observe_batch)
            for key, one in loaded.signatures.items()
        }
        self.refused.pop(version, None)
        self._pauses.pop(version, None)
        self._gone.discard(version)
        self._serving[version] = Serving(version, source, loaded, queues)
        self._metrics.count("kopt_loads_total", outcome="loaded")
        self.on_load(version, source if isinstance(source, Path) else None)
        runtime = next(iter(loaded.signatures.values())).runner.runtime
        checked = "checked against its manifest" if loaded.verified else "without a manifest, so not checked"
        self.log(f"{self.name} version {version} is served by {runtime}, {checked}")
        return True

    def _pause(self, version: int, error: Exception) -> None:
        """Note when to try a version again: never as it is, if it is at fault, else after a growing pause."""
        if isinstance(error, KoptError):
            self._pauses.pop(version, None)
            return
        pause = min(2 * self._pauses.get(version, (_FIRST_PAUSE_S / 2, 0.0))[0], _LONGEST_PAUSE_S)
        self._pauses[version] = (pause, time.monotonic() + pause)

    def _retire(self, version: int) -> None:
        """Take a version out of service; it answers what it has taken, then goes."""
        serving = self._serving.pop(version)
        queues = serving.queues

        async def leave() -> None:
            await serving.free()
            await asyncio.gather(*(queue.close() for queue in queues.values()))
            queues.clear()
            gc.collect()  # TensorFlow's objects go in circles, and their weights with them
            self._leaving.pop(version, None)
            self._gone.add(version)
            self._refused_as.pop(version, None)
            self.on_leave(version)
            self.log(f"{self.name} version {version} is no longer served")

        self._leaving[version] = asyncio.get_running_loop().create_task(leave())


async def follow(host: Host, poll_s: float, stop: asyncio.Event) -> None:
    """Refresh a host until `stop` is set."""
    while not stop.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), poll_s)
            return
        try:
            await host.refresh()
        except Exception as error:  # noqa: BLE001 - such as of a disk that is away; what is in memory goes on
            what = error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            host.log(f"cannot look for versions: {what}")
