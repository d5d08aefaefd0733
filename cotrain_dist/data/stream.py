"""The stream of pixels: read ahead by threads, kept in a cache, the same from all of them."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources import Listing, ReadImage, image_reader
from cotrain_dist.data.sources.decode import ImageError
from cotrain_dist.data.views import View
from cotrain_dist.store.features import default_folder
from cotrain_dist.store.pixels import NoRoom, PixelCache

logger = logging.getLogger(__name__)

CHECKED = 16
"""Images that a thread checks in turn: a bar moves on, and a slow file system is no standstill."""


@dataclass(frozen=True)
class Pixels:
    """A batch of n images in one view, on the CPU.

    values: [n, side, side, 3] uint8. sizes: [n, 2] uint32, width and height before they were
    shrunk. unreadable: [n] bool, images that a tolerant reader gave None for; black in `values`.
    """

    values: Tensor
    sizes: NDArray[np.uint32]
    unreadable: NDArray[np.bool_]

    @property
    def aspects(self) -> NDArray[np.float64]:
        """[n], width over height."""
        return self.sizes[:, 0] / self.sizes[:, 1]


class PixelSource:
    """The pixels of a run's images, by sample_id, as this rank reads them.

    One for a run: its threads and its caches last as long. Equal pixels come from any number of
    readers, with and without a cache.
    """

    def __init__(
        self,
        read: ReadImage,
        *,
        num_readers: int = 0,
        pin_memory: bool = False,
        open_cache: Callable[[View], PixelCache] | None = None,
        tell: Callable[[str], None] = logger.warning,
    ) -> None:
        """num_readers: threads; with 0 the caller's own reads, when it asks for a batch.

        open_cache: raises NoRoom or OSError where images of a view cannot be kept; they are then
        decoded anew in each pass, and `tell` says so.
        """
        self.read, self._tell = read, tell
        self._num_readers, self._pin_memory = num_readers, pin_memory
        self._open_cache = open_cache
        self._caches: dict[View, PixelCache | None] = {}
        self._readers: ThreadPoolExecutor | None = None

    def batches(self, view: View, batches: Sequence[Tensor]) -> Iterator[Pixels]:
        """The pixels of each batch of sample_ids, in order.

        What `read` raises is raised here, whoever reads.
        """
        cache = self._cache_of(view)
        if not self._num_readers:
            for batch in batches:
                yield self._load(view, cache, batch)
            return
        if self._readers is None:
            self._readers = ThreadPoolExecutor(self._num_readers, thread_name_prefix="reader")
        ahead: deque[Future[Pixels]] = deque()
        try:
            for batch in batches:
                ahead.append(self._readers.submit(self._load, view, cache, batch))
                # Each reader works on a batch, and one more lies ready.
                if len(ahead) > self._num_readers + 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # after an error, or where the caller stops, nobody waits for the rest
            for future in ahead:
                future.cancel()

    def _load(self, view: View, cache: PixelCache | None, batch: Tensor) -> Pixels:
        ids = batch.numpy()
        shape = (len(ids), view.side, view.side, 3)
        values = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin_memory)
        pixels, sizes = values.numpy(), np.ones((len(ids), 2), dtype=np.uint32)
        unreadable = np.zeros(len(ids), dtype=np.bool_)
        missing = range(len(ids)) if cache is None else self._kept(cache, ids, pixels, sizes)
        for place in missing:
            image = self.read(int(ids[place]))
            if image is None:
                unreadable[place], pixels[place] = True, 0
                continue
            sizes[place] = image.size
            pixels[place] = np.asarray(view.prepare(image))
            if cache is not None and cache.can_write:
                self._keep(cache, int(ids[place]), pixels[place], image.size)
        return Pixels(values, sizes, unreadable)

    def check(
        self, views: Sequence[View], sample_ids: Tensor, num_threads: int
    ) -> Iterator[tuple[int, list[tuple[int, str]]]]:
        """Reads images: how many it has got through, and which of them cannot be used, and why.

        The others are then kept in every view. What is kept already is not read again: it was
        decoded once. Ends the threads that it starts.
        """
        ids = sample_ids.numpy()
        caches = [(view, self._cache_of(view)) for view in views]
        held = np.stack([self._held(cache, ids) for _, cache in caches], axis=1)
        todo = np.flatnonzero(~held.all(axis=1))
        yield len(ids) - len(todo), []
        batches = [todo[start : start + CHECKED] for start in range(0, len(todo), CHECKED)]
        with ThreadPoolExecutor(num_threads, thread_name_prefix="scan") as readers:
            ahead: deque[tuple[int, Future[list[tuple[int, str]]]]] = deque()
            try:
                for places in batches:
                    done = readers.submit(self._check, caches, ids[places], held[places])
                    ahead.append((len(places), done))
                    if len(ahead) > 2 * num_threads:
                        num, found = ahead.popleft()
                        yield num, found.result()
                while ahead:
                    num, found = ahead.popleft()
                    yield num, found.result()
            finally:  # after an error nobody waits for the rest
                readers.shutdown(wait=False, cancel_futures=True)

    def _check(
        self,
        caches: Sequence[tuple[View, PixelCache | None]],
        ids: NDArray[np.int64],
        held: NDArray[np.bool_],
    ) -> list[tuple[int, str]]:
        """held: [n, views], what is kept already."""
        bad = []
        for sample_id, is_held in zip(ids.tolist(), held, strict=True):
            lacking = [own for own, is_kept in zip(caches, is_held, strict=True) if not is_kept]
            try:
                image = self.read(sample_id)
            except ImageError as error:
                bad.append((sample_id, error.reason))
                continue
            for view, cache in lacking:
                if image is not None and cache is not None and cache.can_write:
                    pixels = np.ascontiguousarray(view.prepare(image))
                    self._keep(cache, sample_id, pixels, image.size)
        return bad

    def _held(self, cache: PixelCache | None, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images a cache holds."""
        nothing = np.zeros(len(ids), dtype=np.bool_)
        if cache is None:
            return nothing
        try:
            return cache.holds(ids)
        except OSError as error:
            cache.can_write = False
            self._tell(_not_kept(error))
            return nothing

    def _kept(
        self,
        cache: PixelCache,
        ids: NDArray[np.int64],
        pixels: NDArray[np.uint8],
        sizes: NDArray[np.uint32],
    ) -> list[int]:
        """Fill in what the cache holds; the places that it does not."""
        before = cache.num_damaged
        try:
            missing = cache.read(ids, pixels, sizes)
        except OSError as error:  # a disk that fails, a file server that forgot the file
            cache.can_write = False
            self._tell(_not_kept(error))
            return list(range(len(ids)))
        if cache.num_damaged and not before:
            self._tell(_damaged(cache))
        return missing

    def _keep(
        self, cache: PixelCache, sample_id: int, pixels: NDArray[np.uint8], size: tuple[int, int]
    ) -> None:
        try:
            cache.write(sample_id, pixels, *size)
        except OSError as error:
            cache.can_write = False
            self._tell(_not_kept(error))

    def _cache_of(self, view: View) -> PixelCache | None:
        if self._open_cache is None:
            return None
        if view not in self._caches:
            try:
                cache = self._open_cache(view)
            except (NoRoom, OSError) as error:
                self._tell(_not_kept(error))
                self._caches[view] = None
            else:
                if cache.num_damaged:
                    self._tell(_damaged(cache))
                self._caches[view] = cache
        return self._caches[view]

    def close(self) -> None:
        """End the threads and close the caches; a later pass opens them again."""
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)
            self._readers = None
        for cache in self._caches.values():
            if cache is not None:
                cache.close()
        self._caches.clear()


def _damaged(cache: PixelCache) -> str:
    return f"{cache.path} is damaged, or was cut short: its images are decoded anew"


def _not_kept(error: NoRoom | OSError) -> str:
    why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    return f"decoded images are not kept ({why}); data.cache names another folder, or is off"


def pixels_of(
    data: DataConfig,
    listing: Listing,
    *,
    num_readers: int = 0,
    pin_memory: bool = False,
    tell: Callable[[str], None] = logger.warning,
) -> PixelSource:
    """The pixels of a listing's images. Raises UserError where they are not there as listed."""

    def open_cache(view: View) -> PixelCache:
        folder = default_folder("pixels") if data.cache == "auto" else Path(data.cache)
        return PixelCache(
            folder, view.about(), listing.digests, view.side, most_gigabytes=data.cache_gb
        )

    return PixelSource(
        image_reader(data, listing),
        num_readers=num_readers,
        pin_memory=pin_memory,
        open_cache=None if data.cache == "off" else open_cache,
        tell=tell,
    )
